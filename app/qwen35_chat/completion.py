"""What may follow what is typed: commands after a slash, files after an @."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_chat.attachments import mention
from qwen35_chat.commands import BY_SLASH

MOST = 8
_WORD = re.compile(r"(?:^|(?<=\s))@(\"[^\"\n]*|[^\s\"]*)$")


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion.

    Attributes:
        insert: takes the place of the last `replaces` characters before the cursor.
        label, hint: what is shown.
    """

    insert: str
    replaces: int
    label: str
    hint: str = ""


def score(query: str, candidate: str) -> float | None:
    """How well the letters of `query` are found in `candidate` in this order; None: they are not.

    Whole runs, beginnings of words and the file's own name count more; long candidates less.
    """
    low, text = query.casefold(), candidate.casefold()
    at, last, points = 0, -2, 0.0
    name = text.rfind("/") + 1
    found = text.find(low, name)
    if low and found >= 0:
        return 100.0 + (20 if found == name else 0) - len(text) / 100
    for letter in low:
        at = text.find(letter, at)
        if at < 0:
            return None
        points += 3 if at == last + 1 else 1
        if at == 0 or text[at - 1] in "/_-. ":
            points += 3
        if at >= name:
            points += 1
        last, at = at, at + 1
    return points - len(text) / 100


def ranked(query: str, candidates: Sequence[str], most: int = MOST) -> list[str]:
    """The candidates that match, the best first."""
    if not query:
        return list(candidates[:most])
    scored = [(found, c) for c in candidates if (found := score(query, c)) is not None]
    scored.sort(key=lambda pair: -pair[0])
    return [candidate for _, candidate in scored[:most]]


def commands_for(text: str) -> list[Choice]:
    """Commands, if `text` up to the cursor is a slash and part of a name."""
    match = re.fullmatch(r"/([a-z]*)", text)
    if not match:
        return []
    names = ranked(match.group(1), list(BY_SLASH), most=len(BY_SLASH))
    return [
        Choice(
            f"/{name}" + (" " if BY_SLASH[name].argument else ""),
            len(text),
            f"/{name}",
            BY_SLASH[name].help,
        )
        for name in names
    ]


def mention_before(text: str) -> str | None:
    """The part of a file's name after an @ at the end of `text`; None if there is no @."""
    match = _WORD.search(text)
    return match.group(1).removeprefix('"') if match else None


def files_for(text: str, files: Sequence[str]) -> list[Choice]:
    """Files, if `text` up to the cursor ends in an @ and part of a name."""
    query = mention_before(text)
    if query is None:
        return []
    replaces = len(text) - text.rindex("@", 0, len(text) - len(query))
    return [Choice(mention(name) + " ", replaces, name) for name in ranked(query, files)]
