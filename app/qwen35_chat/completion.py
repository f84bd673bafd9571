"""Completions of what is typed: commands after a slash, files after an @."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_chat.commands import BY_ALIAS, BY_SLASH
from qwen35_chat.documents import document_kind
from qwen35_chat.mentions import mention, unfinished
from qwen35_mlx.text.folding import folded

LIMIT = 8
DOCUMENT = "sends its text"
FOLDER = "sends its files"


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion.

    Attributes:
        insert: replaces the last `replaces` characters before the cursor.
        label, hint: what the list shows.
    """

    insert: str
    replaces: int
    label: str
    hint: str = ""


def score(query: str, candidate: str) -> float | None:
    """How well `query` matches `candidate`, the higher the better.

    The letters of the query must occur in their order, in any spelling, else the score is None.
    Runs of letters, beginnings of words and the last part of a path score higher, long candidates
    lower.
    """
    low, text = folded(query), folded(candidate)
    at, last, points = 0, -2, 0.0
    name = text.rstrip("/").rfind("/") + 1
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


def ranked(query: str, candidates: Sequence[str], limit: int = LIMIT) -> list[str]:
    """The candidates that match, the best first, at most `limit`."""
    if not query:
        return list(candidates[:limit])
    scored = [(found, c) for c in candidates if (found := score(query, c)) is not None]
    scored.sort(key=lambda pair: -pair[0])
    return [candidate for _, candidate in scored[:limit]]


def commands_for(text: str) -> list[Completion]:
    """Commands, if `text`, up to the cursor, is a slash and a part of a name."""
    match = re.fullmatch(r"/([a-z]*)", text)
    if not match:
        return []
    query = match.group(1)
    found = [(name, BY_SLASH[name]) for name in ranked(query, list(BY_SLASH), limit=len(BY_SLASH))]
    commands = [command for _, command in found]
    found += [
        (alias, command)
        for alias, command in BY_ALIAS.items()
        if query and alias.startswith(query) and command not in commands
    ]
    return [
        Completion(
            f"/{name}" + (" " if command.argument else ""), len(text), f"/{name}", command.help
        )
        for name, command in found
    ]


def files_for(text: str, files: Sequence[str]) -> list[Completion]:
    """Files and folders, if `text`, up to the cursor, ends in an @ and a part of a name."""
    found = unfinished(text)
    if found is None:
        return []
    at, query = found
    return [
        Completion(mention(name) + " ", len(text) - at, name, _what_is_sent(name))
        for name in ranked(query, files)
    ]


def _what_is_sent(name: str) -> str:
    """What a mention sends, if that is not a text file, whose tokens are counted."""
    if name.endswith("/"):
        return FOLDER
    return DOCUMENT if document_kind(name) else ""
