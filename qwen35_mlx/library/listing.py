"""Conversations as lines of a list, and which one a name means."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_mlx.errors import Qwen35Error

PREVIEW = 200
_NAMED_AT_MOST = 5
_SUMMARY = f"""
    SELECT id, title, model, created, updated,
        (SELECT count(*) FROM messages WHERE conversation = c.id),
        coalesce((SELECT prompt_tokens + reply_tokens FROM messages
            WHERE conversation = c.id AND reply_tokens IS NOT NULL ORDER BY id DESC LIMIT 1), 0),
        coalesce((SELECT substr(content, 1, {PREVIEW}) FROM messages WHERE id = c.leaf), '')
    FROM conversations c
"""


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A line of a list of conversations.

    Attributes:
        messages: how many there are, on all paths.
        tokens: of the newest turn, prompt and reply; 0 before the first.
        preview: how the last message of the selected path begins.
    """

    id: int
    title: str
    model: str
    created: float
    updated: float
    messages: int
    tokens: int
    preview: str


def page(
    db: sqlite3.Connection, limit: int, after: ConversationSummary | None
) -> Sequence[ConversationSummary]:
    """The last changed first; `after` the last one of the page before."""
    where = "deleted IS NULL"
    values: tuple[Any, ...] = ()
    if after is not None:
        where += " AND (updated, id) < (?, ?)"
        values = (after.updated, after.id)
    return _summaries(db, f"WHERE {where} ORDER BY updated DESC, id DESC LIMIT ?", (*values, limit))


def all_deleted(db: sqlite3.Connection) -> Sequence[ConversationSummary]:
    """Those that are deleted and not purged yet, the last deleted first."""
    return _summaries(db, "WHERE deleted IS NOT NULL ORDER BY deleted DESC, id DESC", ())


def _summaries(
    db: sqlite3.Connection, which: str, values: tuple[Any, ...]
) -> Sequence[ConversationSummary]:
    return [ConversationSummary(*row) for row in db.execute(_SUMMARY + which, values)]


def resolve(db: sqlite3.Connection, name: str) -> int:
    """The id of the conversation that is meant: by its id, its title, or how that begins.

    Raises:
        Qwen35Error: none is, or several are; these are named.
    """
    wanted = " ".join(name.split()).casefold()
    titles: dict[int, str] = dict(
        db.execute(
            "SELECT id, title FROM conversations WHERE deleted IS NULL ORDER BY updated DESC"
        )
    )
    if wanted.isascii() and wanted.isdigit() and int(wanted) in titles:
        return int(wanted)
    beginning = [i for i, title in titles.items() if title.casefold().startswith(wanted)]
    same = [i for i in beginning if titles[i].casefold() == wanted]
    found = same or beginning
    if not wanted or not found:
        raise Qwen35Error(f"no conversation is called {name!r}: qwen35-chat --list shows them")
    if len(found) > 1:
        named = ", ".join(f"{i} ({titles[i]})" for i in found[:_NAMED_AT_MOST])
        more = ", ..." if len(found) > _NAMED_AT_MOST else ""
        raise Qwen35Error(
            f"{len(found)} conversations are called {name!r}: say which by its id: {named}{more}"
        )
    return found[0]
