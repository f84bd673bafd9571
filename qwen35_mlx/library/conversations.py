"""Conversations and their messages in the library's tables."""

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    Message,
    title_from,
)
from qwen35_mlx.library.rows import (
    COLUMNS,
    message_from_row,
    replace_surrogates,
    row_from_message,
    settings_from_json,
    settings_json,
)
from qwen35_mlx.library.store import Database

_MESSAGE = f"SELECT {', '.join(COLUMNS)} FROM messages"


class ConversationStore(Database):
    """What was said. Errors: as for `Database`, and whatever is named is not there."""

    def create(
        self, *, title: str = "", model: str = "", settings: ChatSettings | None = None
    ) -> int:
        """A new, empty conversation; its id. Without a title it gets one from what is asked."""
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
        """Store a whole conversation under new ids, all of it or nothing; its id."""
        with self.transaction() as db:
            new = insert(
                db,
                "conversations",
                {
                    "title": replace_surrogates(conversation.title),
                    "model": replace_surrogates(conversation.model),
                    "settings": settings_json(conversation.settings),
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
        """A conversation with all its messages.

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
            found = db.execute(f"{_MESSAGE} WHERE conversation = ? ORDER BY id", (conversation,))
            messages = tuple(message_from_row(row) for row in found)
        return Conversation(conversation, title, messages, leaf, settings, *rest)

    def rename(self, conversation: int, title: str) -> str:
        """Give a title, which is returned; an empty one is made from what was asked first."""
        title = " ".join(title.split())
        with self.transaction() as db:
            if not title:
                asked = db.execute(
                    "SELECT content FROM messages WHERE conversation = ? AND role = 'user'"
                    " ORDER BY id LIMIT 1",
                    (conversation,),
                ).fetchone()
                title = title_from(asked[0]) if asked else ""
            self.set_columns(conversation, title=replace_surrogates(title))
        return title

    def configure(self, conversation: int, settings: ChatSettings) -> None:
        """Keep how its turns are answered."""
        self.set_columns(conversation, settings=settings_json(settings))

    def use_model(self, conversation: int, model: str) -> None:
        """Keep which model it was last used with."""
        self.set_columns(conversation, model=replace_surrogates(model))

    def select(self, conversation: int, leaf: int | None) -> None:
        """Make the path to `leaf` the selected one."""
        with self.transaction() as db:
            _require(db, conversation, leaf)
            self.set_columns(conversation, leaf=leaf)

    def set_columns(self, conversation: int, *, durable: bool = True, **values: Any) -> None:
        """Set columns of a conversation's row."""
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
            message: its id is ignored; `created` is now if it is 0.

        Returns:
            the message as it is stored.
        """
        new = replace(message, created=message.created or time.time())
        with self.transaction() as db:
            _require(db, conversation, new.parent)
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
        """Write what a stored message has become: all but its place, role, model and time.

        Args:
            durable: False while a reply is being written. Such a save does not wait for the disk,
                and the conversation does not count as changed.
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
        """A message by its id."""
        with self.reading() as db:
            row = db.execute(f"{_MESSAGE} WHERE id = ?", (message,)).fetchone()
        if row is None:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        return message_from_row(row)

    def position(self, message: int) -> tuple[int, int]:
        """Which version of how many a message is, as `Conversation.position` without the rest."""
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


def _require(db: sqlite3.Connection, conversation: int, message: int | None) -> None:
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
