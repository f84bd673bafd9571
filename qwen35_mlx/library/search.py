"""Full-text search: parses what a user types, and finds titles and messages."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qwen35_mlx.library.conversation import Role, Shelf
from qwen35_mlx.library.listing import NEWEST_FIRST
from qwen35_mlx.library.rows import shelf_of, usable_time
from qwen35_mlx.text.folding import folded, folded_spans, unfolded_index

# The length of the substrings in the index. Shorter terms need a scan of the messages.
TRIGRAM = 3
# The rest of a pasted page is ignored, since it would only make the search slow.
MAX_QUERY_CHARACTERS = 400
MOST_ROWS = 2_000  # messages that are looked at for a list of conversations
# Characters of a snippet before its first term, and in total.
SNIPPET_BEFORE, SNIPPET_WIDTH = 40, 160
_SELECT_FOUND = (
    "SELECT messages.conversation, c.title, messages.id, messages.role, messages.content,"
    " messages.thinking, messages.created, search.content, search.thinking FROM"
)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed search: a message matches if its folded text contains all terms.

    Attributes:
        terms: folded.
        match: an FTS5 expression for the terms of three or more characters; "" if there are none.
        short: the shorter terms.
    """

    terms: tuple[str, ...]
    match: str
    short: tuple[str, ...]

    def pattern(self) -> re.Pattern[str]:
        """A pattern that matches any of the terms in a folded text, the longest first."""
        longest_first = sorted(self.terms, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def whole_words(self) -> re.Pattern[str]:
        """As `pattern`, for terms that are not parts of longer words."""
        return re.compile(rf"(?<!\w)(?:{self.pattern().pattern})(?!\w)")

    def is_in(self, text: str) -> bool:
        """Whether a folded text contains all terms."""
        return all(term in text for term in self.terms)


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
        shelf: of the conversation: archived ones are found, too.
    """

    conversation: int
    title: Snippet
    best: Hit
    messages: int
    shelf: Shelf


def parse_query(text: str) -> Query:
    """Parse words and "quoted phrases". Every character is literal; there are no operators."""
    text = folded(re.sub("[\ud800-\udfff]", " ", text[:MAX_QUERY_CHARACTERS]))
    found = [phrase or word for phrase, word in re.findall(r'"([^"]*)"?|(\S+)', text)]
    terms = tuple(dict.fromkeys(term for term in found if term.strip()))
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms if len(term) >= TRIGRAM]
    short = tuple(term for term in terms if len(term) < TRIGRAM)
    return Query(terms, " AND ".join(quoted), short)


def find_conversations(
    db: sqlite3.Connection, query: Query, limit: int
) -> Sequence[ConversationHits]:
    """Conversations with the terms, each with its best line: those in whose title they are, then
    those with the newest messages.

    The best line has a term as a whole word, is no thinking, and is the newest of these.
    """
    best = {hit.conversation: (0, hit, 0) for hit in _title_hits(db, query)}
    for found in _found_messages(db, query, MOST_ROWS):
        rank, kept, number = best.get(found.conversation, (0, None, 0))
        new = found.rank(query)
        if kept is None or new > rank:
            rank, kept = new, found.hit(query)
        best[found.conversation] = rank, kept, number + 1
    shelves: dict[int, int] = dict(
        db.execute("SELECT id, shelf FROM conversations WHERE deleted IS NULL AND shelf != 0")
    )
    return [
        ConversationHits(
            at, make_snippet(hit.title, query), hit, number, shelf_of(shelves.get(at, 0))
        )
        for at, (_, hit, number) in list(best.items())[:limit]
    ]


def find_hits(db: sqlite3.Connection, query: Query, limit: int) -> Sequence[Hit]:
    """Titles, then messages on any path, that contain all terms; newest first."""
    hits = _title_hits(db, query)[:limit]
    found = _found_messages(db, query, limit - len(hits))
    return [*hits, *(message.hit(query) for message in found)]


@dataclass(frozen=True, slots=True)
class _FoundMessage:
    """A message that matches: a row of `_SELECT_FOUND`.

    Attributes:
        said, thought: the folded content and thinking.
    """

    conversation: int
    title: str
    message: int
    role: Role
    content: str
    thinking: str
    created: float
    said: str
    thought: str

    def _place(self, query: Query) -> tuple[Literal["content", "thinking"], int]:
        """Where the first term is, and its index in the folded text."""
        pattern = query.pattern()
        if not (first := pattern.search(self.said)) and (other := pattern.search(self.thought)):
            return "thinking", other.start()
        return "content", first.start() if first else 0

    def rank(self, query: Query) -> int:
        """How good a line it gives for a list of conversations, from 1 to 4."""
        where, start = self._place(query)
        text = self.said if where == "content" else self.thought
        window = text[max(0, start - SNIPPET_BEFORE) :][:SNIPPET_WIDTH]
        return 1 + (where == "content") * 2 + bool(query.whole_words().search(window))

    def hit(self, query: Query) -> Hit:
        where, _ = self._place(query)
        piece = make_snippet(self.content if where == "content" else self.thinking, query)
        time = usable_time(self.created)
        return Hit(self.conversation, self.title, self.message, self.role, where, piece, time)


def _found_messages(db: sqlite3.Connection, query: Query, limit: int) -> Iterator[_FoundMessage]:
    conditions, values = ["c.deleted IS NULL"], list[Any]()
    if query.match:
        conditions.append("search MATCH ?")
        values.append(query.match)
    for term in query.short:
        conditions.append("(instr(search.content, ?) OR instr(search.thinking, ?))")
        values += [term, term]
    # CROSS JOIN makes SQLite read the index in order, newest first, and stop at the limit.
    rows = db.execute(
        f"{_SELECT_FOUND} search CROSS JOIN messages ON messages.id = search.rowid"
        " CROSS JOIN conversations c ON c.id = messages.conversation"
        f" WHERE {' AND '.join(conditions)} ORDER BY search.rowid DESC LIMIT ?",
        (*values, limit),
    )
    return (_FoundMessage(*row) for row in rows)


def _title_hits(db: sqlite3.Connection, query: Query) -> list[Hit]:
    rows = db.execute(
        "SELECT id, title, updated FROM conversations WHERE deleted IS NULL"
        f" ORDER BY {NEWEST_FIRST}"
    )
    return [
        Hit(
            *(conversation, title, None, None, "title", make_snippet(title, query)),
            usable_time(updated),
        )
        for conversation, title, updated in rows
        if query.is_in(folded(title))
    ]


def make_snippet(
    text: str, query: Query, before: int = SNIPPET_BEFORE, width: int = SNIPPET_WIDTH
) -> Snippet:
    """The text around the first term; without a match, the beginning of the text.

    Args:
        before: characters before the term.
        width: characters in total.
    """
    pattern = query.pattern()
    first = pattern.search(folded(text))
    start = max(0, unfolded_index(text, first.start()) - before) if first else 0
    piece = re.sub(r"\s", " ", text[start : start + width])
    lead = "…" if start else ""
    spans = tuple(
        (begin + len(lead), end + len(lead)) for begin, end in folded_spans(piece, pattern)
    )
    return Snippet(lead + piece + ("…" if start + width < len(text) else ""), spans)
