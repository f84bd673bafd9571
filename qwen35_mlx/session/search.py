"""A user's search words: taken apart, as a query, and found again in the text."""

import re
from dataclasses import dataclass
from itertools import product

# The index knows runs of this length; what is shorter is looked for in the text itself.
INDEXED = 3
# Nobody types more; a pasted page would only be slow.
LONGEST_QUERY = 400


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


def parse(text: str) -> Query:
    """Words, and "phrases in quotes", taken literally: there are no operators to know or escape."""
    text = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", text[:LONGEST_QUERY])
    found = [phrase or word for phrase, word in re.findall(r'"([^"]*)"?|(\S+)', text)]
    terms = tuple(dict.fromkeys(term for term in found if term.strip()))
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms if len(term) >= INDEXED]
    short = tuple(_spellings(term) for term in terms if len(term) < INDEXED)
    return Query(terms, " AND ".join(quoted), short)


def _spellings(term: str) -> tuple[str, ...]:
    cases = [dict.fromkeys((char, char.lower(), char.upper())) for char in term]
    return tuple("".join(chars) for chars in product(*cases))


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of a text on one line, and where the terms are in it.

    Attributes:
        spans: (start, end) in `text`, ascending.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


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
