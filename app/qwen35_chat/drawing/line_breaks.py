"""Where a line may be broken.

Between words, and between the characters of Chinese and Japanese, except before what closes and
after what opens (JIS X 4051, GB/T 15834). Korean has spaces between its words.
"""

from bisect import bisect_right
from itertools import pairwise

from qwen35_chat.graphemes import cells_before, graphemes, starts
from qwen35_chat.patterns import pattern

# Code points a cell, and of a line; more have no width, and would make a line without an end.
LONGEST_LINE, LEAST_LINE = 8, 64
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
# A no-break space belongs to the words around it.
_SPACE = r"\t\n\r \u1680\u2000-\u2006\u2008-\u200a\u2028\u2029\u205f\u3000"
_ATOM = rf"(?:[{_CJK}]|[^{_SPACE}{_CJK}]++)"
# A word or a character, and the spaces after it; nothing at the end of a text.
_UNITS = pattern(
    rf"((?:{_ATOM}(?:(?<=[{_NO_END}]){_ATOM})*+(?:[{_NO_START}]++)?+)?+)([{_SPACE}]*+)"
)


def widest_unit(text: str) -> int:
    """The cells of the widest part that is not broken if it fits a line."""
    measured = _Measured(text)
    return max(measured.cells_between(*unit.span(1)) for unit in _UNITS().finditer(measured.shape))


def break_offsets(text: str, width: int, hanging: int | None = None) -> list[int]:
    """Offsets at which to break `text`, which is one line, so that its parts fit `width` cells.

    Args:
        hanging: how many of the spaces at the end of a part may stand beyond them; None for all.
    """
    if len(text) * 2 <= width or (text.isascii() and len(text) <= width):
        return []
    measured = _Measured(text)
    most = max(LONGEST_LINE * width, LEAST_LINE)
    offsets: list[int] = []
    line = 0  # its first character
    for unit in _UNITS().finditer(measured.shape):
        start, word, end = unit.start(), unit.end(1), unit.end()
        within = word if hanging is None else max(word, end - hanging)
        long = measured.offsets[end] - measured.offsets[start] > most
        if line < start < word and (measured.cells_between(line, within) > width or long):
            offsets.append(measured.offsets[start])
            line = start
        if measured.cells_between(line, within) > width or long:
            inside = word if hanging is None and end - word <= width else end
            breaks, line = measured.broken(line, inside, width, most)
            offsets += breaks
    return offsets


def broken(text: str, width: int) -> list[str]:
    """The parts of `text`, which is one line, that fit `width` cells."""
    offsets = [0, *break_offsets(text, width), len(text)]
    return [text[start:end] for start, end in pairwise(offsets)]


def _code_point(cluster: str) -> str:
    """The one that stands for a cluster; a space with an accent is no space."""
    return "a" if len(cluster) > 1 and cluster[0].isspace() else cluster[0]


class _Measured:
    """A text by its characters as a reader sees them.

    Attributes:
        shape: one code point for each.
        offsets: where each begins in the text, and the end of the text.
    """

    def __init__(self, text: str):
        clusters = graphemes(text)
        self.offsets = starts(clusters)
        self._cells = cells_before(clusters)
        if isinstance(clusters, str):
            self.shape = clusters
        else:  # a space with an accent is no space
            self.shape = "".join(
                c[0] if len(c) == 1 or not c[0].isspace() else "a" for c in clusters
            )

    def cells_between(self, start: int, end: int) -> int:
        return self._cells[end] - self._cells[start]

    def broken(self, start: int, end: int, width: int, most: int) -> tuple[list[int], int]:
        """Offsets at which characters are broken into lines, and the first one of the last line.

        Args:
            most: code points of a line; one character with more of them is broken itself.
        """
        breaks: list[int] = []
        while True:
            fitting = bisect_right(self._cells, self._cells[start] + width, start, end + 1) - 1
            limit = self.offsets[start] + most
            stop = min(fitting, bisect_right(self.offsets, limit, start, end + 1) - 1)
            if stop == start < end:
                breaks += range(limit, self.offsets[start + 1], most)
                stop += 1
            if stop >= end:
                return breaks, start
            breaks.append(self.offsets[stop])
            start = stop
