"""Full-text search: parses what a user types, and finds titles and messages."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from qwen35_mlx.library.conversation import Role

# The length of the substrings in the index. Shorter terms need a scan of the messages.
TRIGRAM = 3
# The rest of a pasted page is ignored, since it would only make the search slow.
MAX_QUERY_CHARACTERS = 400
MOST_ROWS = 2_000  # messages that are looked at for a list of conversations
_SELECT_HITS = (
    "SELECT messages.conversation, c.title, messages.id, messages.role, messages.content,"
    " messages.thinking, messages.created FROM"
)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed search: a message matches if it contains all terms, in any case.

    Attributes:
        match: an FTS5 expression for the terms of three or more characters; "" if there are none.
        short: all spellings in upper and lower case of each shorter term.
    """

    terms: tuple[str, ...]
    match: str
    short: tuple[tuple[str, ...], ...]

    def pattern(self) -> re.Pattern[str]:
        """A pattern that matches any of the terms, the longest first."""
        longest_first = sorted(self.terms, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a text, as one line, with the places of the search terms.

    Attributes:
        spans: (start, end) of each term in `text`, ascending.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A title or message that matches a search.

    Attributes:
        message, role: the message's id and role; None for a title.
        created: when the message was created; for a title, when the conversation was updated.
    """

    conversation: int
    title: str
    message: int | None
    role: Role | None
    where: Literal["title", "content", "thinking"]
    snippet: Snippet
    created: float


@dataclass(frozen=True, slots=True)
class ConversationHits:
    """What a search has found in a conversation.

    Attributes:
        best: its best message, or its title if no message matches.
        messages: how many messages match, of the newest `MOST_ROWS` in the library.
    """

    conversation: int
    title: Snippet
    best: Hit
    messages: int


def parse_query(text: str) -> Query:
    """Parse words and "quoted phrases". Every character is literal; there are no operators."""
    text = re.sub("[\x00-\x1f\x7f\ud800-\udfff]", " ", text[:MAX_QUERY_CHARACTERS])
    found = [phrase or word for phrase, word in re.findall(r'"([^"]*)"?|(\S+)', text)]
    terms = tuple(dict.fromkeys(term for term in found if term.strip()))
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms if len(term) >= TRIGRAM]
    short = tuple(_case_variants(term) for term in terms if len(term) < TRIGRAM)
    return Query(terms, " AND ".join(quoted), short)


def _case_variants(term: str) -> tuple[str, ...]:
    cases = [dict.fromkeys((char, char.lower(), char.upper())) for char in term]
    return tuple("".join(chars) for chars in product(*cases))


def find_conversations(
    db: sqlite3.Connection, query: Query, limit: int
) -> Sequence[ConversationHits]:
    """Conversations with the terms, each with its best line: those in whose title they are, then
    those with the newest messages.

    The best line has a term as a whole word, is no thinking, and is the newest of these.
    """
    best = {hit.conversation: (0, hit, 0) for hit in _title_hits(db, query)}
    whole = re.compile(rf"(?<!\w)(?:{query.pattern().pattern})(?!\w)", re.IGNORECASE)
    for hit in _message_hits(db, query, MOST_ROWS):
        rank, kept, number = best.get(hit.conversation, (0, hit, 0))
        new = 1 + (hit.where == "content") * 2 + bool(whole.search(hit.snippet.text))
        if new > rank:
            rank, kept = new, hit
        best[hit.conversation] = rank, kept, number + 1
    return [
        ConversationHits(at, make_snippet(hit.title, query), hit, number)
        for at, (_, hit, number) in list(best.items())[:limit]
    ]


def find_hits(db: sqlite3.Connection, query: Query, limit: int) -> Sequence[Hit]:
    """Titles, then messages on any path, that contain all terms; newest first."""
    hits = _title_hits(db, query)[:limit]
    return [*hits, *_message_hits(db, query, limit - len(hits))]


def _message_hits(db: sqlite3.Connection, query: Query, limit: int) -> Iterator[Hit]:
    conditions, values = ["c.deleted IS NULL"], list[Any]()
    if query.match:
        # CROSS JOIN makes SQLite read the index in order, newest first, and stop at the limit.
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
        f"{_SELECT_HITS} {tables} CROSS JOIN conversations c ON c.id = messages.conversation"
        f" WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT ?",
        (*values, limit),
    )
    pattern = query.pattern()
    for conversation, title, message, role, content, thinking, created in rows:
        in_content = pattern.search(content) or not pattern.search(thinking)
        piece = make_snippet(content if in_content else thinking, query)
        where = "content" if in_content else "thinking"
        yield Hit(conversation, title, message, role, where, piece, created)


def _title_hits(db: sqlite3.Connection, query: Query) -> list[Hit]:
    wanted = [term.casefold() for term in query.terms]
    rows = db.execute(
        "SELECT id, title, updated FROM conversations WHERE deleted IS NULL ORDER BY updated DESC"
    )
    return [
        Hit(conversation, title, None, None, "title", make_snippet(title, query), updated)
        for conversation, title, updated in rows
        if all(term in title.casefold() for term in wanted)
    ]


def make_snippet(text: str, query: Query, before: int = 40, width: int = 160) -> Snippet:
    """The text around the first term; without a match, the beginning of the text.

    Args:
        before: characters before the term.
        width: characters in total.
    """
    pattern = query.pattern()
    first = pattern.search(text)
    start = max(0, first.start() - before) if first else 0
    piece = re.sub(r"\s", " ", text[start : start + width])
    lead = "…" if start else ""
    spans = tuple(
        (match.start() + len(lead), match.end() + len(lead)) for match in pattern.finditer(piece)
    )
    return Snippet(lead + piece + ("…" if start + width < len(text) else ""), spans)
