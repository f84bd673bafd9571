"""Text broken into lines of the screen."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from rich.cells import cell_len
from textual.content import Content, Span

from qwen35_chat.drawing.line import Line, Run
from qwen35_chat.drawing.line_breaks import break_offsets

TAB = 4  # cells


def wrap(
    content: Content,
    width: int,
    first: str = "",
    rest: str = "",
    fill: str = "",
    first_row: int = 0,
) -> list[Line]:
    """`content` in lines of at most `width` cells.

    Args:
        first, rest: before the first line, and before each other line.
        fill: the style `Line.fill` of the lines.
        first_row: the number of the first row.
    """
    half = max(width // 2, 1)
    if cell_len(rest) > half:  # deeply nested: the text needs the room more than its margin
        first, rest = first[-half:], rest[-half:]
    room = max(width - cell_len(rest), 1)
    lines: list[Line] = []
    for row, part in enumerate(content.split("\n", allow_blank=True), first_row):
        whole = [Run(0, len(part.plain), 0)]
        if "\t" in part.plain:
            part, whole = expand_tabs(part)
        offsets = break_offsets(part.plain, room)
        start = 0
        for n, piece in enumerate(part.divide(offsets) if offsets else [part]):
            prefix = rest if lines else first
            shown = Content.styled(prefix, ".muted") + piece if prefix else piece
            end = start + len(piece.plain)
            runs = [run.moved(len(prefix)) for run in _within(whole, start, end)]
            lines.append(Line(shown, len(prefix), n > 0, fill, row, runs))
            start = end
    return lines


def _within(runs: Sequence[Run], start: int, end: int) -> list[Run]:
    """What is between two characters, the first of which is moved to 0; one run at least."""
    inside = [
        Run(
            max(run.start - start, 0), min(run.end, end) - start, run.at + max(start - run.start, 0)
        )
        for run in runs
        if run.start < end and run.end > start
    ]
    if inside:
        return inside
    before = [run for run in runs if run.start <= start][-1]
    return [Run(0, 0, before.at + min(start, before.end) - before.start)]


def expand_tabs(content: Content) -> tuple[Content, list[Run]]:
    """One line with spaces in place of its tabs, and where the other characters were.

    It takes one pass; the method of `Content` takes one for each tab.
    """
    parts = content.plain.split("\t")
    starts, at, cells = [0], 0, 0  # where each part starts, and how far the line is
    expanded: list[str] = []
    for part in parts[:-1]:
        cells += cell_len(part)
        spaces = TAB - cells % TAB
        cells += spaces
        expanded.append(part + " " * spaces)
        at += len(part) + spaces
        starts.append(at)
    expanded.append(parts[-1])
    before = [0, *accumulate(len(part) + 1 for part in parts[:-1])]

    def moved(offset: int) -> int:
        part = bisect_right(before, offset) - 1
        return starts[part] + offset - before[part]

    spans = [Span(moved(span.start), moved(span.end), span.style) for span in content.spans]
    runs = [Run(to, to + len(part), at) for to, part, at in zip(starts, parts, before, strict=True)]
    return Content("".join(expanded), spans), runs
