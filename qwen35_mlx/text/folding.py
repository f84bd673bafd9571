"""Text as searches and names compare it: one spelling of what people take for the same.

Folded text has no upper case, no accents, no half-width or full-width forms, and its characters in
one composition. Marks that make another letter stay: vowels and tones of Thai, vowels of Indian
scripts, the voicing of kana. Control characters, NUL among them, are spaces.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from unicodedata import category, normalize


def _characters(*ranges: str) -> Iterator[str]:
    """The characters of ranges such as "a-z"."""
    for first, _, last in ranges:
        yield from map(chr, range(ord(first), ord(last) + 1))


# The accents of Latin, Greek and Cyrillic, without strokes through a letter, and what is optional
# in Hebrew and Arabic: points, cantillation, vowels, Koranic signs.
_ACCENTS = _characters(
    *("\u0300-\u0333", "\u0339-\u036f", "\u0483-\u0487", "\u1ab0-\u1aff", "\u1dc0-\u1dff"),
    *("\u20d0-\u20d1", "\u20d4-\u20d7", "\u20db-\u20dc", "\ufe20-\ufe2f"),
    *("\u0591-\u05bd", "\u05bf-\u05bf", "\u05c1-\u05c2", "\u05c4-\u05c5", "\u05c7-\u05c7"),
    *("\u0610-\u061a", "\u064b-\u065f", "\u0670-\u0670", "\u06d6-\u06dc", "\u06df-\u06e4"),
    *("\u06e7-\u06e8", "\u06ea-\u06ed"),
)
# Soft hyphens, joiners, marks of direction, selectors of a glyph, the Arabic lengthening.
_UNSEEN = _characters(
    *("\u00ad-\u00ad", "\u034f-\u034f", "\u061c-\u061c", "\u0640-\u0640", "\u180b-\u180f"),
    *("\u200b-\u200f", "\u202a-\u202e", "\u2060-\u206f", "\ufe00-\ufe0f", "\ufeff-\ufeff"),
    "\U000e0100-\U000e01ef",
)
_SPACES = _characters("\x00-\x1f", "\x7f-\x9f", "\u2028-\u2029")
# Letters with a stroke or without a dot, which have no decomposition.
_LETTERS = dict(zip("đħıłøŧɨƀ", "dhilotib", strict=True))
_FOLDED = {
    **dict.fromkeys((*_ACCENTS, *_UNSEEN), ""),
    **dict.fromkeys(_SPACES, " "),
    **_LETTERS,
}


def folded(text: str) -> str:
    """The folded form of a text. Folding it again changes nothing."""
    if text.isascii():
        return text.lower() if text.isprintable() else _replaced(text.lower())
    return normalize("NFC", _replaced(normalize("NFKD", normalize("NFKD", text).casefold())))


def _replaced(text: str) -> str:
    for character in _FOLDED.keys() & set(text):
        text = text.replace(character, _FOLDED[character])
    return text


def folded_spans(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where a pattern matches the folded form of a text: (start, end) in the text itself.

    A match within what is one character of the text is that character with its marks.
    """
    ends: list[int] | None = None  # for each character of the text, its end in the folded form
    for match in pattern.finditer(folded(text)):
        start, end = match.span()
        if not text.isascii():
            ends = ends or list(accumulate(_folded_lengths(text)))
            start, end = (
                bisect_right(ends, start),
                max(bisect_left(ends, end) + 1, bisect_right(ends, end)),
            )
        yield start, end


def unfolded_index(text: str, index: int) -> int:
    """The character of a text from which a character of its folded form is, or a mark before it.

    Faster than `folded_spans` in a long text.
    """
    at = min(index, len(text))
    for _ in range(4):  # most characters fold to one, so the first guess is right or near
        missing = index - len(folded(text[:at]))
        if not missing:
            return at
        at = min(max(at + missing, 0), len(text))
    return bisect_right(range(len(text)), index, key=lambda at: len(folded(text[: at + 1])))


def _folded_lengths(text: str) -> Iterator[int]:
    """How many characters of the folded form each character of a text gives.

    Those of a character with marks, and those of a Korean syllable, count for its first one.
    """
    start = 0
    for at in range(1, len(text) + 1):
        if at < len(text) and _continues(text[at]):
            continue
        yield len(folded(text[start:at]))
        yield from (0,) * (at - start - 1)
        start = at


def _continues(character: str) -> bool:
    """Whether a character may become one with that before it."""
    if character < "\u0300":
        return False
    return (
        category(character)[0] == "M"
        or "\u1160" <= character <= "\u11ff"
        or character in "\uff9e\uff9f"
        or "\uffa0" <= character <= "\uffdc"
    )
