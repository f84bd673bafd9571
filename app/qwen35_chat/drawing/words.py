"""Where a word begins and ends, for a double click."""

import unicodedata

from qwen35_chat.patterns import pattern
from qwen35_chat.vim.edits import UnitText
from qwen35_chat.vim.motions import run_end, run_start

_WIDE = pattern("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")
_JOINER = "\u200d"
# Both match the shape of a text, in which a letter is "w", one of a script that is written without
# spaces "W", a mark on the character before it "m", and a sign outside ASCII "o".
_IDENTIFIER = r"[Wm]*W[Wm]*|[wm]+|\s+|.m*"
_CODE = pattern(_IDENTIFIER)
# What holds a word together: a hyphen, an apostrophe, and the signs of paths, addresses and flags.
_PROSE = pattern(
    r"[Wm]*W[Wm]*"
    r"|(?:[wm]|[@#$%&+=?](?=[wm])|-(?=-?[wm])|(?<=[wm])'(?=[wm])"
    r"|\.(?=[wm/]|\./)|:(?=[wm/\\])|[/\\~](?=[wm~./\\-]))+"
    rf"|{_IDENTIFIER}"
)
_LETTERS = pattern("[Wwm]*[Ww][Wwm]*")
_PATH = pattern(r"(?<![wm)\]])(?:[wm]+:/|~|\.{1,2})?/[wm.~/-]*[wm](?:[wm/%?=&#+:.-]*[wm/])?")


def word_at(text: str, at: int, *, code: bool = False) -> tuple[int, int]:
    """The start and the end of the word with the character `at`; both `at` where there is none.

    Args:
        code: names are words, and paths that begin like one.
    """
    shape = _shape(text)
    for words in (_PATH(), _CODE()) if code else (_PROSE(),):
        for found in words.finditer(shape):
            if found.start() <= at < found.end():
                return _one_word(text, shape, at, *found.span())
    return at, at


def _one_word(text: str, shape: str, at: int, start: int, end: int) -> tuple[int, int]:
    """The word at `at` in a run, which has several where a script is written without spaces."""
    if not _LETTERS().fullmatch(shape, start, end):
        return start, end
    units = UnitText(text[start:end])
    unit = units.unit(at - start)
    first, last = run_start(units.units, unit), run_end(units.units, unit)
    return start + units.character(first), start + units.character(last + 1)


def _shape(text: str) -> str:
    shape: list[str] = []
    before = ""
    for character in text:
        shape.append("m" if before == _JOINER else _class(character))
        before = character
    return "".join(shape)


def _class(character: str) -> str:
    if character.isspace():
        return " "
    if character == _JOINER or unicodedata.category(character) in ("Mn", "Mc", "Me", "Sk"):
        return "m" if not character.isascii() else character
    if character.isalnum() or character == "_":
        return "W" if _WIDE().match(character) else "w"
    if character == "\u2019":
        return "'"
    return character if character.isascii() else "o"
