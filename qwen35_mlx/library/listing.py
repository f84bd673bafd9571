"""Lists conversations and finds one by name."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Shelf
from qwen35_mlx.library.rows import SHELVES, shelf_of, usable_time
from qwen35_mlx.text.folding import folded

PREVIEW_WIDTH = 200
MAX_NAMED = 5
# The order of lists: of the last change. Clocks may be wrong, so `updated` only comes second.
NEWEST_FIRST = "changed DESC, updated DESC, id DESC"
MAX_SHOWN = 80  # characters of a name in an error message
_SUMMARY = f"""
    SELECT id, title, model, created, updated, shelf, changed,
        (SELECT count(*) FROM messages WHERE conversation = c.id),
        coalesce((SELECT prompt_tokens + reply_tokens FROM messages
            WHERE conversation = c.id AND reply_tokens IS NOT NULL ORDER BY id DESC LIMIT 1), 0),
        coalesce((SELECT substr(content, 1, {PREVIEW_WIDTH}) FROM messages WHERE id = c.leaf), '')
"""


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A conversation without its messages, for lists.

    Attributes:
        shelf: pinned conversations are listed first, archived ones by themselves.
        changed: the place in the order of changes, which no clock can upset.
        messages: the number of messages on all paths.
        tokens: prompt and reply tokens of the newest turn; 0 before the first.
        preview: the beginning of the last message of the selected path.
    """

    id: int
    title: str
    model: str
    created: float
    updated: float
    shelf: Shelf
    changed: int
    messages: int
    tokens: int
    preview: str


def summary_page(
    db: sqlite3.Connection, limit: int, after: ConversationSummary | None, *, archived: bool
) -> Sequence[ConversationSummary]:
    """Up to `limit` conversations, pinned ones first, and then the last updated first.

    Args:
        after: the last summary of the previous page; None for the first page.
        archived: those that are archived, instead of the others.
    """
    where = f"deleted IS NULL AND shelf {'=' if archived else '!='} {SHELVES['archived']}"
    values: tuple[Any, ...] = ()
    if after is not None:
        where += (
            " AND (shelf, changed, updated, id)"
            " < (?, ?, (SELECT updated FROM conversations WHERE id = ?), ?)"
        )
        values = (SHELVES[after.shelf], after.changed, after.id, after.id)
    return _summaries(db, where, f"shelf DESC, {NEWEST_FIRST}", values, limit)


def newest_summary(db: sqlite3.Connection) -> ConversationSummary | None:
    """The conversation that was last updated and is not archived; None if there is none."""
    where = f"deleted IS NULL AND shelf != {SHELVES['archived']}"
    return next(iter(_summaries(db, where, NEWEST_FIRST, (), 1)), None)


def deleted_summaries(db: sqlite3.Connection) -> Sequence[ConversationSummary]:
    """Conversations that are deleted but not purged, the last deleted first."""
    return _summaries(db, "deleted IS NOT NULL", "deleted DESC, id DESC")


def _summaries(
    db: sqlite3.Connection, where: str, order: str, values: tuple[Any, ...] = (), limit: int = -1
) -> Sequence[ConversationSummary]:
    """Summaries of some conversations; only these are looked at further."""
    some = f"SELECT * FROM conversations WHERE {where} ORDER BY {order} LIMIT ?"
    rows = db.execute(f"{_SUMMARY} FROM ({some}) c ORDER BY {order}", (*values, limit))
    return [
        ConversationSummary(
            *(number, title, model, usable_time(created), usable_time(updated), shelf_of(shelf)),
            *rest,
        )
        for number, title, model, created, updated, shelf, *rest in rows
    ]


def last_change(db: sqlite3.Connection, until: float = inf) -> int:
    """The greatest place in the order of changes, of conversations updated up to a time."""
    found = db.execute(
        "SELECT changed FROM conversations WHERE deleted IS NULL AND updated <= ?"
        f" ORDER BY {NEWEST_FIRST} LIMIT 1",
        (until,),
    ).fetchone()
    return found[0] if found else 0


def find_by_title(db: sqlite3.Connection, title: str) -> int | None:
    """The id of the conversation with exactly this title; None if there is none.

    Raises:
        Qwen35Error: several have it.
    """
    rows = db.execute(
        "SELECT id FROM conversations WHERE deleted IS NULL AND title = ? ORDER BY id", (title,)
    )
    found = [number for (number,) in rows]
    if len(found) > 1:
        raise Qwen35Error(
            f"{len(found)} conversations are called {_shown(title)}: rename all but one"
        )
    return found[0] if found else None


def find_by_name(db: sqlite3.Connection, name: str) -> int:
    """The id of the conversation whose id, title or part of a title is `name`.

    An exact title goes before one in another spelling, as `folded` compares them, that before a
    beginning, and that before another part; spacing does not matter. Where a number is both an id
    and a title, neither goes before the other.

    Raises:
        Qwen35Error: no conversation matches, or several do; the message lists them.
    """
    written = " ".join(name.split())
    wanted = " ".join(folded(name).split())
    titles: dict[int, str] = dict(
        db.execute(
            f"SELECT id, title FROM conversations WHERE deleted IS NULL ORDER BY {NEWEST_FIRST}"
        )
    )
    # Python refuses to read a number of thousands of digits, and no id has more than 19.
    shown = _shown(name)
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 20 and int(wanted) in titles:
        called = [i for i, title in titles.items() if title == written and i != int(wanted)]
        if called:
            raise Qwen35Error(
                f"{shown} is the id of {_shown(titles[int(wanted)])} and the title of conversation "
                f"{called[0]}: give that id, or the other title"
            )
        return int(wanted)
    spelled = {i: folded(title) for i, title in titles.items()}
    parts = [i for i, title in spelled.items() if wanted in title]
    begun = [i for i in parts if spelled[i].startswith(wanted)]
    exact = [i for i in begun if spelled[i] == wanted]
    found = [i for i in exact if titles[i] == written] or exact or begun or parts
    if not wanted or not found:
        raise Qwen35Error(f"no conversation is called {shown}: qwen35-chat --list shows them")
    if len(found) > 1:
        named = ", ".join(f"{i} ({titles[i]})" for i in found[:MAX_NAMED])
        more = ", ..." if len(found) > MAX_NAMED else ""
        raise Qwen35Error(
            f"{len(found)} conversations are called {shown}: say which by its id: {named}{more}"
        )
    return found[0]


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN else name[: MAX_SHOWN - 1] + "…")
