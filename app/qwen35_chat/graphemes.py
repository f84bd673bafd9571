"""Characters as a reader sees them: the extended grapheme clusters of Unicode (UAX 29).

An emoji of several people, a flag, a letter with its accents, a syllable of Korean in parts: the
cursor never stands inside one, and no line is broken there.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from rich.cells import cell_len, get_character_cell_size

# Text of these alone has one character in each cluster: nothing here combines with another.
_SINGLE = re.compile(
    "[\t -~\u00a0-\u02ff\u0370-\u0482\u048a-\u0590\u1e00-\u200a\u2010-\u2027\u2030-\u205e"
    "\u2070-\u20cf\u2100-\u2cee\u2d00-\u2d7e\u2d80-\u2ddf\u2e00-\u3029\u3030-\u3098\u309b-\ua66e"
    "\uac00-\ud7a3\uf900-\ufb1d\ufb1f-\ufdff\uff01-\uff9d\uffa0-\uffef"
    "\U0001f300-\U0001f3fa\U0001f400-\U0001faff\U00020000-\U0002fa1f]*"
)
_EMOJI_STYLE = "\ufe0f"  # makes the character before it two cells wide


def graphemes(text: str) -> Sequence[str]:
    """The grapheme clusters of a text, which joined are the text."""
    if _SINGLE.fullmatch(text):
        return text
    # Imported when first needed: it takes as long as several frames.
    import regex

    return regex.findall(r"\X", text)


def starts(clusters: Sequence[str]) -> Sequence[int]:
    """Where each cluster begins in their text, and at last the length of the text."""
    if isinstance(clusters, str):
        return range(len(clusters) + 1)
    return [0, *accumulate(map(len, clusters))]


def cells_before(clusters: Sequence[str]) -> Sequence[int]:
    """The cells of the screen before each cluster, and at last those of all."""
    if isinstance(clusters, str):
        if clusters.isascii():
            return range(len(clusters) + 1)
        return [0, *accumulate(map(get_character_cell_size, clusters))]
    return [0, *accumulate(map(_cells, clusters))]


def _cells(cluster: str) -> int:
    # By itself, the selector has no width; in a text it widens what is left of a format character.
    return 1 if cluster[0] == _EMOJI_STYLE else cell_len(cluster)


@lru_cache(maxsize=16)
def _edges(text: str) -> Sequence[int]:
    return starts(graphemes(text))


def boundary_before(text: str, at: int) -> int:
    """A place itself, or the start of the cluster that it is in."""
    edges = _edges(text)
    return edges[bisect_right(edges, max(at, 0)) - 1]


def boundary_after(text: str, at: int) -> int:
    """A place itself, or the end of the cluster that it is in."""
    edges = _edges(text)
    return edges[bisect_left(edges, min(at, edges[-1]))]


def cut(text: str, width: int) -> str:
    """As many whole clusters of a text as fit into `width` cells."""
    if cell_len(text) <= width:
        return text
    clusters = graphemes(text)
    fitting = bisect_right(cells_before(clusters), width) - 1
    return text[: starts(clusters)[fitting]]
