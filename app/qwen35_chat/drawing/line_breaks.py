"""Where a line may be broken.

Between words, and between the characters of Chinese and Japanese, except before what closes and
after what opens (JIS X 4051, GB/T 15834). Korean has spaces between its words.
"""

import re
from collections.abc import Iterator

from rich.cells import cell_len, split_graphemes

LONGEST_LINE = 8  # characters a cell; more have no width, and would make a line without an end
_CJK = (
    r"\u2e80-\u2fdf\u3001-\u30ff\u3100-\u312f\u31a0-\u31ff\u3200-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f\uffe0-\uffe6\U00020000-\U0003ffff"
)
# No line starts with these, and none ends with those.
_NO_START = (
    r"\u2019\u201d\u2026\u2025\u00b7\u00bb\u203a!),.:;?\]}%\u2030\u2103"
    r"\u3001\u3002\u3005\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u3019\u301b\u301c\u301e\u301f"
    r"\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087\u308e\u3095\u3096\u309b-\u309e"
    r"\u30a1\u30a3\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7\u30ee\u30f5\u30f6\u30fb-\u30fe"
    r"\u31f0-\u31ff\uff01\uff05\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\uff3d\uff5d\uff5e\uff60-\uff65"
    r"\uff67-\uff70"
)
_NO_END = (
    r"\u2018\u201c\u00ab\u2039$(\[{\u00a3\u00a5\u3008\u300a\u300c\u300e\u3010\u3014\u3016\u3018"
    r"\u301a\u301d\uff04\uff08\uff3b\uff5b\uff5f\uffe1\uffe5"
)
# Belong to the character before them.
_JOINED = r"\u0300-\u036f\u200d\u20e3\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
# A no-break space belongs to the words around it.
_SPACE = r"\t\n\r \u1680\u2000-\u2006\u2008-\u200a\u2028\u2029\u205f\u3000"
_ATOM = rf"(?:[{_CJK}][{_JOINED}]*+|[^{_SPACE}{_CJK}]++)"
# A word or a character, and the spaces after it; nothing at the end of a text.
_UNITS = re.compile(
    rf"((?:{_ATOM}(?:(?<=[{_NO_END}]){_ATOM})*+(?:[{_NO_START}][{_JOINED}]*+)*+)?+)([{_SPACE}]*+)"
)
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")


def widest_unit(text: str) -> int:
    """The cells of the widest part that is not broken if it fits a line."""
    return max((cell_len(word) for word, _ in _UNITS.findall(text)), default=0)


def break_offsets(text: str, width: int) -> list[int]:
    """Offsets at which to break `text`, which is one line, so that its parts fit `width` cells.

    Spaces at the end of a part may stand beyond them.
    """
    if len(text) * 2 <= width or (text.isascii() and len(text) <= width):
        return []
    offsets: list[int] = []
    used = at = 0
    for word, space in _UNITS.findall(text):
        cells = cell_len(word)
        long = len(word) + len(space) > LONGEST_LINE * width
        if used and word and (used + cells > width or long):
            offsets.append(at)
            used = 0
        if cells > width or long:
            inside = word if len(space) <= width else word + space
            breaks, used = _broken(inside, width)
            offsets += [at + offset for offset in breaks]
            used += cell_len(space) if inside == word else 0
        else:
            used += cells + cell_len(space)
        at += len(word) + len(space)
    return offsets


def _broken(unit: str, width: int) -> tuple[list[int], int]:
    """Offsets at which a unit is broken between any two characters, and the cells after them."""
    offsets: list[int] = []
    used = start = 0
    for first, end, cells in _characters(unit):
        if used and (used + cells > width or end - start > LONGEST_LINE * width):
            offsets.append(first)
            used, start = 0, first
        while end - start > LONGEST_LINE * width:  # one character with marks without an end
            start += LONGEST_LINE * width
            offsets.append(start)
        used += cells
    return offsets, used


def _characters(text: str) -> Iterator[tuple[int, int, int]]:
    """The start, the end and the cells of each character as a reader sees it."""
    spans, _ = split_graphemes(text)
    pair = None  # the first half of a flag
    for span in spans:
        if _FLAG.match(text[span[0]]):
            if pair is None:
                pair = span
                continue
            span = pair[0], span[1], pair[2] + span[2]
        elif pair is not None:
            yield pair
        pair = None
        yield span
    if pair is not None:
        yield pair
