"""Reads and writes conversations and messages in the library's database."""

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwen35_mlx.arguments import checked
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    Message,
    title_from,
)
from qwen35_mlx.library.database import Database
from qwen35_mlx.library.rows import (
    COLUMNS,
    message_from_row,
    replace_surrogates,
    row_from_message,
    settings_from_json,
    settings_to_json,
)

_SELECT_MESSAGES = f"SELECT {', '.join(COLUMNS)} FROM messages"


@checked
class ConversationStore(Database):
    """Conversations and messages in a database.

    Raises:
        Qwen35Error: from every method: see `Database`; or there is no conversation or message of
            the given id.
    """

    def create(
        self, *, title: str = "", model: str = "", settings: ChatSettings | None = None
    ) -> int:
        """Add an empty conversation and return its id.

        If `title` is empty, the first user message sets it.
        """
        now = time.time()
        return self.add_conversation(
            Conversation(
                id=0,
                title=title,
                model=model,
                settings=settings or ChatSettings(),
                created=now,
                updated=now,
            )
        )

    def add_conversation(self, conversation: Conversation) -> int:
        """Store a conversation under new ids, in one transaction, and return its id."""
        with self.transaction() as db:
            new = insert(
                db,
                "conversations",
                {
                    "title": replace_surrogates(conversation.title),
                    "model": replace_surrogates(conversation.model),
                    "settings": settings_to_json(conversation.settings),
                    "draft": replace_surrogates(conversation.draft),
                    "created": conversation.created,
                    "updated": conversation.updated,
                },
            )
            ids: dict[int | None, int | None] = {None: None}
            for message in conversation.messages:
                values = row_from_message(replace(message, parent=ids[message.parent]))
                ids[message.id] = insert(db, "messages", {"conversation": new, **values})
            db.execute(
                "UPDATE conversations SET leaf = ? WHERE id = ?", (ids[conversation.leaf], new)
            )
        return new

    def conversation(self, conversation: int) -> Conversation:
        """The conversation of this id, with all its messages.

        Raises:
            Qwen35Error: there is none of that id, or it was deleted.
        """
        with self.reading() as db:
            row = db.execute(
                "SELECT title, leaf, settings, model, draft, created, updated"
                " FROM conversations WHERE id = ? AND deleted IS NULL",
                (conversation,),
            ).fetchone()
            if row is None:
                raise no_such_conversation(conversation)
            title, leaf, settings, *rest = row
            settings = settings_from_json(settings)
            rows = db.execute(
                f"{_SELECT_MESSAGES} WHERE conversation = ? ORDER BY id", (conversation,)
            )
            messages = tuple(message_from_row(row) for row in rows)
        return Conversation(conversation, title, messages, leaf, settings, *rest)

    def rename(self, conversation: int, title: str) -> str:
        """Set the title and return it; an empty one is replaced by one from the first question."""
        title = " ".join(title.split())
        with self.transaction() as db:
            if not title:
                question = db.execute(
                    "SELECT content FROM messages WHERE conversation = ? AND role = 'user'"
                    " ORDER BY id LIMIT 1",
                    (conversation,),
                ).fetchone()
                title = title_from(question[0]) if question else ""
            self.set_columns(conversation, title=replace_surrogates(title))
        return title

    def configure(self, conversation: int, settings: ChatSettings) -> None:
        """Store the settings of the next turns."""
        self.set_columns(conversation, settings=settings_to_json(settings))

    def use_model(self, conversation: int, model: str) -> None:
        """Store the name of the model that is used now."""
        self.set_columns(conversation, model=replace_surrogates(model))

    def select(self, conversation: int, leaf: int | None) -> None:
        """Select the path to `leaf`; None selects no path."""
        with self.transaction() as db:
            _check_exists(db, conversation, leaf)
            self.set_columns(conversation, leaf=leaf)

    def set_columns(self, conversation: int, *, durable: bool = True, **values: Any) -> None:
        """Set columns of a conversation that is not deleted."""
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self.transaction(durable=durable) as db:
            changed = db.execute(
                f"UPDATE conversations SET {names} WHERE id = :id AND deleted IS NULL",
                {**values, "id": conversation},
            )
            if not changed.rowcount:
                raise no_such_conversation(conversation)

    # Messages

    def add_message(self, conversation: int, message: Message) -> Message:
        """Add a message after its parent and select it.

        The first user message gives the conversation its title, if it has none.

        Args:
            message: its id is ignored; a `created` of 0 becomes the current time.

        Returns:
            the message with its id and time.
        """
        new = replace(message, created=message.created or time.time())
        with self.transaction() as db:
            _check_exists(db, conversation, new.parent)
            values = {"conversation": conversation, **row_from_message(new)}
            new = replace(new, id=insert(db, "messages", values))
            self.set_columns(conversation, leaf=new.id, updated=new.created)
            if new.role == "user":
                db.execute(
                    "UPDATE conversations SET title = ? WHERE id = ? AND title = ''",
                    (replace_surrogates(title_from(new.content)), conversation),
                )
        return new

    def save(self, message: Message, *, durable: bool = True) -> None:
        """Update a stored message: everything except its parent, role, model and creation time.

        Args:
            durable: False while a reply is being written. The save then does not wait for the
                disk, and `updated` of the conversation stays the same.
        """
        values = row_from_message(message)
        for name in ("parent", "role", "model", "created"):
            del values[name]
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self.transaction(durable=durable) as db:
            changed = db.execute(
                f"UPDATE messages SET {names} WHERE id = :id", {**values, "id": message.id}
            )
            if not changed.rowcount:
                raise Qwen35Error(f"message {message.id} is not there (any more): it was deleted")
            if durable:
                db.execute(
                    "UPDATE conversations SET updated = ?"
                    " WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                    (time.time(), message.id),
                )

    def message(self, message: int) -> Message:
        """The message of this id."""
        with self.reading() as db:
            row = db.execute(f"{_SELECT_MESSAGES} WHERE id = ?", (message,)).fetchone()
        if row is None:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        return message_from_row(row)

    def position(self, message: int) -> tuple[int, int]:
        """`Conversation.position`, without loading the conversation."""
        with self.reading() as db:
            row = db.execute(
                "SELECT sum(other.id <= one.id), count(*) FROM messages one JOIN messages other"
                " ON other.conversation = one.conversation AND other.parent IS one.parent"
                " WHERE one.id = ?",
                (message,),
            ).fetchone()
        if row is None or not row[1]:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        return row[0], row[1]


def insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> int:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    new = db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values).lastrowid
    assert new is not None
    return new


def _check_exists(db: sqlite3.Connection, conversation: int, message: int | None) -> None:
    found = db.execute(
        "SELECT 1 FROM conversations WHERE id = ? AND deleted IS NULL", (conversation,)
    )
    if found.fetchone() is None:
        raise no_such_conversation(conversation)
    if message is not None:
        found = db.execute(
            "SELECT 1 FROM messages WHERE conversation = ? AND id = ?", (conversation, message)
        )
        if found.fetchone() is None:
            raise Qwen35Error(
                f"conversation {conversation} has no message {message}: open it again"
            )


def no_such_conversation(conversation: int) -> Qwen35Error:
    return Qwen35Error(
        f"conversation {conversation} is not there, or was deleted: see qwen35-chat --list"
    )
