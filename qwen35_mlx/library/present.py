"""Whether the library has a conversation already."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.rows import row_from_message, usable_time


def present(library: Library, db: sqlite3.Connection, conversation: Conversation) -> int | None:
    """The id of the conversation that has begun at the same time and has all the messages.

    It may have more, which were written since, and another title. None if there is none, or if it
    was deleted.
    """
    begun = db.execute(
        "SELECT id FROM conversations WHERE created = ? AND deleted IS NULL ORDER BY id",
        (usable_time(conversation.created),),
    )
    wanted = _rows(conversation.messages)
    for (number,) in begun.fetchall():
        stored = library.conversation(number)
        same = wanted or (not stored.messages and stored.title == conversation.title)
        if same and _rows(stored.messages[: len(wanted)]) == wanted:
            return number
    return None


def _rows(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as they are stored, with the places of their parents instead of ids."""
    places = {message.id: place for place, message in enumerate(messages)}
    return [
        {**row_from_message(message), "parent": places.get(message.parent or 0)}
        for message in messages
    ]
