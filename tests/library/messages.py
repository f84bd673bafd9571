"""Helpers that write messages to a library."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen35_mlx.library import schema
from qwen35_mlx.library.conversation import Message, Role
from qwen35_mlx.library.library import FILE, Library


def add_message(
    library: Library, conversation: int, parent: int | None, role: Role, content: str, **rest: Any
) -> Message:
    return library.add_message(conversation, Message(0, parent, role, content, **rest))


def begin_reply(library: Library, conversation: int, parent: int | None, model: str) -> Message:
    """Add an empty partial reply, as at the beginning of a turn."""
    return add_message(library, conversation, parent, "assistant", "", state="partial", model=model)


def update_reply(
    library: Library, reply: int, content: str, thinking: str = "", **rest: Any
) -> None:
    """Save a reply that is being written."""
    message = Message(reply, None, "assistant", content, thinking, state="partial", **rest)
    library.save(message, durable=False)


def finish_reply(
    library: Library,
    reply: int,
    content: str,
    thinking: str = "",
    tool_calls: tuple[Any, ...] | list[Any] = (),
    **rest: Any,
) -> None:
    """Save a reply that is complete, or in the state given."""
    message = Message(reply, None, "assistant", content, thinking, tuple(tool_calls))
    library.save(replace(message, **rest))


def write_old_library(folder: Path, version: int, texts: Sequence[str]) -> None:
    """Write a library in an earlier format, with the texts as one conversation."""
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN")
        for statement in (part for parts in schema.MIGRATIONS[:version] for part in parts):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {version}")
        db.execute(
            "INSERT INTO conversations (title, model, settings, created, updated)"
            " VALUES ('old', '', '{}', 1, 2.5)"
        )
        db.executemany(
            "INSERT INTO messages (conversation, parent, role, content, thinking, tool_calls,"
            " state, error, model, created)"
            " VALUES (1, ?, 'user', ?, '', '', 'complete', '', '', 3)",
            [(number or None, text) for number, text in enumerate(texts)],
        )
        db.execute("UPDATE conversations SET leaf = ?", (len(texts),))
        db.execute("COMMIT")
