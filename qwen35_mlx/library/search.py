"""Full-text search: what a user types as a query, and what is found as pieces of text."""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from qwen35_mlx.library.conversation import Role

# The index knows runs of this length; what is shorter is looked for in the text itself.
TRIGRAM = 3
# Nobody types more; a pasted page would only be slow.
LONGEST_QUERY = 400
_FOUND = (
    "SELECT messages.conversation, c.title, messages.id, messages.role, messages.content,"
    " messages.thinking, messages.created FROM"
)


@dataclass(frozen=True, slots=True)
class Query:
    """What to find: every term, anywhere in a message, whatever its case.

    Attributes:
        match: an FTS5 expression for the terms that the index knows; "" for none.
        short: for each other term its spellings, one of which the text must have.
    """

    terms: tuple[str, ...]
    match: str
    short: tuple[tuple[str, ...], ...]

    def pattern(self) -> re.Pattern[str]:
        """Any of the terms, the longest first."""
        longest_first = sorted(self.terms, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of a text on one line, and where the terms are in it.

    Attributes:
        spans: (start, end) in `text`, ascending.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A place where a search found something.

    Attributes:
        message, role: None if it is a title.
        created: of the message; for a title, when the conversation last changed.
    """

    conversation: int
    title: str
    message: int | None
    role: Role | None
    where: Literal["title", "content", "thinking"]
    snippet: Snippet
    created: float


def parse(text: str) -> Query:
    """Words, and "phrases in quotes", taken literally: there are no operators to know or escape."""
    text = re.sub("[\x00-\x1f\x7f\ud800-\udfff]", " ", text[:LONGEST_QUERY])
    found = [phrase or word for phrase, word in re.findall(r'"([^"]*)"?|(\S+)', text)]
    terms = tuple(dict.fromkeys(term for term in found if term.strip()))
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms if len(term) >= TRIGRAM]
    short = tuple(_case_variants(term) for term in terms if len(term) < TRIGRAM)
    return Query(terms, " AND ".join(quoted), short)


def _case_variants(term: str) -> tuple[str, ...]:
    cases = [dict.fromkeys((char, char.lower(), char.upper())) for char in term]
    return tuple("".join(chars) for chars in product(*cases))


def find(db: sqlite3.Connection, query: Query, limit: int) -> Sequence[Hit]:
    """Titles, then messages on any path, that have all the terms; the newest first."""
    hits = _title_hits(db, query)[:limit]
    conditions, values = ["c.deleted IS NULL"], list[Any]()
    if query.match:
        # The index gives its rows newest first, too, so the first few are found at once.
        tables = "search CROSS JOIN messages ON messages.id = search.rowid"
        order = "search.rowid"
        conditions.append("search MATCH ?")
        values.append(query.match)
    else:
        tables, order = "messages", "messages.id"
    for spellings in query.short:
        pairs = [(column, s) for s in spellings for column in ("content", "thinking")]
        either = " OR ".join(f"instr(messages.{column}, ?)" for column, _ in pairs)
        conditions.append(f"({either})")
        values.extend(spelling for _, spelling in pairs)
    rows = db.execute(
        f"{_FOUND} {tables} CROSS JOIN conversations c ON c.id = messages.conversation"
        f" WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT ?",
        (*values, limit - len(hits)),
    )
    pattern = query.pattern()
    for conversation, title, message, role, content, thinking, created in rows:
        in_content = pattern.search(content) or not pattern.search(thinking)
        piece = snippet(content if in_content else thinking, query)
        where = "content" if in_content else "thinking"
        hits.append(Hit(conversation, title, message, role, where, piece, created))
    return hits


def _title_hits(db: sqlite3.Connection, query: Query) -> list[Hit]:
    wanted = [term.casefold() for term in query.terms]
    rows = db.execute(
        "SELECT id, title, updated FROM conversations WHERE deleted IS NULL ORDER BY updated DESC"
    )
    return [
        Hit(conversation, title, None, None, "title", snippet(title, query), updated)
        for conversation, title, updated in rows
        if all(term in title.casefold() for term in wanted)
    ]


def snippet(text: str, query: Query, before: int = 40, width: int = 160) -> Snippet:
    """The first place where a term is found, with what is around it; else the text's start."""
    pattern = query.pattern()
    first = pattern.search(text)
    start = max(0, first.start() - before) if first else 0
    piece = re.sub(r"\s", " ", text[start : start + width])
    lead = "…" if start else ""
    spans = tuple(
        (match.start() + len(lead), match.end() + len(lead)) for match in pattern.finditer(piece)
    )
    return Snippet(lead + piece + ("…" if start + width < len(text) else ""), spans)
