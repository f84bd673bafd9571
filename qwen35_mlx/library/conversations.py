"""Conversations and their messages in the library's tables."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    FinishReason,
    Message,
    Role,
    State,
    Usage,
    title_from,
)
from qwen35_mlx.library.rows import (
    COLUMNS,
    message_of,
    settings_json,
    settings_of,
    storable,
    values_of,
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
            new = inserted(
                db,
                "conversations",
                {
                    "title": storable(conversation.title),
                    "model": storable(conversation.model),
                    "settings": settings_json(conversation.settings),
                    "draft": storable(conversation.draft),
                    "created": conversation.created,
                    "updated": conversation.updated,
                },
            )
            ids: dict[int | None, int | None] = {None: None}
            for message in conversation.messages:
                values = values_of(replace(message, parent=ids[message.parent]))
                ids[message.id] = inserted(db, "messages", {"conversation": new, **values})
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
                raise missing(conversation)
            title, leaf, settings, *rest = row
            settings = settings_of(settings)
            found = db.execute(f"{_MESSAGE} WHERE conversation = ? ORDER BY id", (conversation,))
            messages = tuple(message_of(row) for row in found)
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
            self.set_columns(conversation, title=storable(title))
        return title

    def configure(self, conversation: int, settings: ChatSettings) -> None:
        """Keep how its turns are answered."""
        self.set_columns(conversation, settings=settings_json(settings))

    def use_model(self, conversation: int, model: str) -> None:
        """Keep which model it was last used with."""
        self.set_columns(conversation, model=storable(model))

    def select(self, conversation: int, leaf: int | None) -> None:
        """Make the path to `leaf` the selected one."""
        with self.transaction() as db:
            _must_have(db, conversation, leaf)
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
                raise missing(conversation)

    # Messages

    def add_message(
        self,
        conversation: int,
        parent: int | None,
        role: Role,
        content: str,
        *,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        state: State = "complete",
        model: str = "",
    ) -> Message:
        """Add a message after `parent` and select it.

        The first user message gives the conversation its title, if it has none.
        """
        new = Message(
            id=0,
            parent=parent,
            role=role,
            content=content,
            thinking=thinking,
            tool_calls=tuple(tool_calls),
            state=state,
            model=model,
            created=time.time(),
        )
        with self.transaction() as db:
            _must_have(db, conversation, parent)
            values = values_of(new)
            new = replace(
                new, id=inserted(db, "messages", {"conversation": conversation, **values})
            )
            self.set_columns(conversation, leaf=new.id, updated=new.created)
            if role == "user":
                db.execute(
                    "UPDATE conversations SET title = ? WHERE id = ? AND title = ''",
                    (storable(title_from(content)), conversation),
                )
        return new

    def begin_reply(self, conversation: int, parent: int, model: str) -> Message:
        """Add an empty reply after `parent`, in the state "partial", and select it."""
        return self.add_message(conversation, parent, "assistant", "", state="partial", model=model)

    def update_reply(
        self,
        message: int,
        content: str,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        thinking_seconds: float | None = None,
    ) -> None:
        """Keep how far a reply has come: all of it, not what is new. Cheap; call it each second."""
        changes = Message(0, None, "assistant", content, thinking, tuple(tool_calls))
        changes = replace(changes, state="partial", thinking_seconds=thinking_seconds)
        self._change(message, changes, durable=False)

    def finish_reply(
        self,
        message: int,
        content: str,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        *,
        state: State = "complete",
        finish_reason: FinishReason | None = None,
        error: str = "",
        usage: Usage | None = None,
        thinking_seconds: float | None = None,
    ) -> None:
        """Keep a whole reply, or as much of it as there was when it was cancelled or failed."""
        changes = Message(
            id=0,
            parent=None,
            role="assistant",
            content=content,
            thinking=thinking,
            tool_calls=tuple(tool_calls),
            state=state,
            finish_reason=finish_reason,
            error=error,
            usage=usage,
            thinking_seconds=thinking_seconds,
        )
        with self.transaction() as db:
            self._change(message, changes)
            db.execute(
                "UPDATE conversations SET updated = ?"
                " WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (time.time(), message),
            )

    def message(self, message: int) -> Message:
        """A message by its id."""
        with self.reading() as db:
            row = db.execute(f"{_MESSAGE} WHERE id = ?", (message,)).fetchone()
        if row is None:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        return message_of(row)

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

    def _change(self, message: int, changes: Message, *, durable: bool = True) -> None:
        """Write what a reply changes: all but its place, role, model and time."""
        values = values_of(changes)
        for name in ("parent", "role", "model", "created"):
            del values[name]
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self.transaction(durable=durable) as db:
            changed = db.execute(
                f"UPDATE messages SET {names} WHERE id = :id", {**values, "id": message}
            )
            if not changed.rowcount:
                raise Qwen35Error(f"message {message} is not there (any more): it was deleted")


def inserted(db: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> int:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    new = db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values).lastrowid
    assert new is not None
    return new


def _must_have(db: sqlite3.Connection, conversation: int, message: int | None) -> None:
    found = db.execute(
        "SELECT 1 FROM conversations WHERE id = ? AND deleted IS NULL", (conversation,)
    )
    if found.fetchone() is None:
        raise missing(conversation)
    if message is not None:
        found = db.execute(
            "SELECT 1 FROM messages WHERE conversation = ? AND id = ?", (conversation, message)
        )
        if found.fetchone() is None:
            raise Qwen35Error(
                f"conversation {conversation} has no message {message}: open it again"
            )


def missing(conversation: int) -> Qwen35Error:
    return Qwen35Error(
        f"conversation {conversation} is not there, or was deleted: see qwen35-chat --list"
    )
