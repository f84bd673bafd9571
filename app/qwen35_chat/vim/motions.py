"""Where the motions of vim go.

A text is a sequence of units: graphemes, such as an emoji of several code points, and line ends.
Places are indices of units. A word is a run of letters, digits and underscores, as for Ctrl+W, or a
run of other signs. Where a script has no spaces, such as Chinese or Thai, a run has several words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_chat.graphemes import graphemes
from qwen35_chat.segmentation import CONTEXT, word_ends

Units = Sequence[str]
_LETTER = re.compile(r"\w")
SPACE, WORD, SIGN = range(3)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a motion ends.

    Attributes:
        inclusive: an operator also takes the unit there.
        lines: an operator takes whole lines.
    """

    at: int
    inclusive: bool = False
    lines: bool = False


def units_of(text: str) -> list[str]:
    """The graphemes and line ends of a text, which joined are the text."""
    units: list[str] = []
    for number, line in enumerate(text.split("\n")):
        if number:
            units.append("\n")
        units += graphemes(line)
    return units


def line_start(units: Units, at: int) -> int:
    while at > 0 and units[at - 1] != "\n":
        at -= 1
    return at


def line_end(units: Units, at: int) -> int:
    """The place of the line end, or the end of the text."""
    while at < len(units) and units[at] != "\n":
        at += 1
    return at


def on_unit(units: Units, at: int) -> int:
    """`at`, or the last unit of its line if it is behind that."""
    at = max(0, min(at, len(units)))
    behind = at == len(units) or units[at] == "\n"
    return at - 1 if behind and at > line_start(units, at) else at


def first_sign(units: Units, at: int) -> int:
    """The first unit of the line that is no space."""
    at, end = line_start(units, at), line_end(units, at)
    while at < end and units[at].isspace():
        at += 1
    return at


def down(units: Units, at: int, lines: int, column: int | None = None) -> int | None:
    """The same column some lines below, or above if negative, as far as there are lines.

    None where there is no line to go to.

    Args:
        column: to go to in place of that of `at`.
    """
    start = first = line_start(units, at)
    column = at - start if column is None else column
    for _ in range(abs(lines)):
        edge = line_end(units, start) if lines > 0 else start - 1
        if not 0 <= edge < len(units):
            break
        start = edge + 1 if lines > 0 else line_start(units, edge)
    if start == first and lines:
        return None
    return on_unit(units, min(start + column, line_end(units, start)))


def word_forward(units: Units, at: int) -> int:
    """The beginning of the next word; an empty line is one."""
    size = len(units)
    if at < size and _kind(units, at) != SPACE:
        at = run_end(units, at) + 1
    while at < size and _kind(units, at) == SPACE:
        at += 1
        if at < size and units[at] == units[at - 1] == "\n":
            break
    return at


def word_back(units: Units, at: int) -> int:
    """The beginning of the word, or of the one before."""
    at -= 1
    while at > 0 and _kind(units, at) == SPACE:
        if units[at] == units[at - 1] == "\n":
            return at
        at -= 1
    return run_start(units, at) if at > 0 else 0


def word_end(units: Units, at: int) -> int:
    """The last unit of the word, or of the next one if `at` is there."""
    at += 1
    while at < len(units) and _kind(units, at) == SPACE:
        at += 1
    return run_end(units, min(at, max(len(units) - 1, 0)))


def run_end(units: Units, at: int) -> int:
    """The last unit of the word, the signs or the spaces at `at`, within its line."""
    while at + 1 < len(units) and units[at + 1] != "\n" and _goes_on(units, at + 1):
        at += 1
    return at


def run_start(units: Units, at: int) -> int:
    """The first unit of the run at `at`, within its line."""
    while at > 0 and units[at - 1] != "\n" and _goes_on(units, at):
        at -= 1
    return at


def word_around(units: Units, at: int, *, spaces: bool) -> tuple[int, int]:
    """The first unit of the word at `at` and the one behind its last.

    Args:
        spaces: with the spaces after it, or else those before it; at a space, with the word after.
    """
    if at == line_end(units, at):
        return at, at
    start, end = run_start(units, at), run_end(units, at) + 1
    if not spaces:
        return start, end
    if _kind(units, at) == SPACE:
        return start, run_end(units, end) + 1 if end < line_end(units, end) else end
    behind = end
    while behind < len(units) and units[behind] != "\n" and units[behind].isspace():
        behind += 1
    while behind == end and start > 0 and units[start - 1] != "\n" and units[start - 1].isspace():
        start -= 1
    return start, behind


def find(units: Units, at: int, how: str, sign: str, count: int) -> int | None:
    """The `count`th `sign` of the line: f and F to it, t and T before it. None if it is missing."""
    step = 1 if how in "ft" else -1
    edge = line_end(units, at) if step > 0 else line_start(units, at) - 1
    found = [place for place in range(at + step, edge, step) if units[place] == sign]
    if len(found) < count:
        return None
    return found[count - 1] - (0 if how in "fF" else step)


def _goes_on(units: Units, at: int) -> bool:
    """Whether a unit is of the same run as the one before it."""
    kind = _kind(units, at)
    if _kind(units, at - 1) != kind:
        return False
    if kind != WORD or (units[at].isascii() and units[at - 1].isascii()):
        return True
    before, after = units[max(at - CONTEXT, 0) : at], units[at : at + CONTEXT]
    return not word_ends("".join(before), "".join(after))


def _kind(units: Units, at: int) -> int:
    if at >= len(units) or units[at].isspace():
        return SPACE
    return WORD if _LETTER.match(units[at]) else SIGN
