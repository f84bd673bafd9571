"""One line of the screen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from textual.content import Content

from qwen35_chat.drawing.source_lines import SourceLine

CELL = 1 << 20  # characters from one cell of a table's row to the next, as `Run.at` counts them
# In the meta data of a style: a formula as it was written, in place of which the text is shown.
SOURCE = "source"
BLANK = Content("")


class Run(NamedTuple):
    """Characters of a line's content, and where they are in what is shown of their row.

    Attributes:
        start, end: of the content.
        at: the place of the first one in the row; in a table, `CELL` times the number of its cell
            and the place in that.
    """

    start: int
    end: int
    at: int

    def moved(self, by: int, at: int = 0) -> "Run":
        """The run of the same characters, `by` further in the content and `at` in the row."""
        return Run(self.start + by, self.end + by, self.at + at)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One line of the screen.

    A row is a line of a text, which may be wrapped into several lines of the screen.

    Attributes:
        content: the text with its styles.
        prefix: characters at its start that are decoration, and are not copied.
        joined: it continues the line above, which was too long.
        fill: a style for the background of the whole width.
        row: the number of its row in its block; -1 if all of it is decoration.
        runs: the characters that are not decoration.
        source: the row as it was written, once that is known.
    """

    content: Content
    prefix: int = 0
    joined: bool = False
    fill: str = ""
    row: int = -1
    runs: Sequence[Run] = ()
    source: SourceLine | None = None

    @property
    def end(self) -> int:
        """The place in its row after its last character."""
        return max((run.at + run.end - run.start for run in self.runs), default=0)

    def before(self, more: str) -> "Line":
        """This line with more text at its end."""
        *runs, last = self.runs or [Run(self.prefix, self.prefix, 0)]
        runs.append(Run(last.start, last.end + len(more), last.at))
        return replace(self, content=self.content + more, runs=runs)

    def after(self, margin: str, style: str) -> "Line":
        """This line after a margin, which is decoration, with a style below its own."""
        by = len(margin)
        return replace(
            self,
            content=(margin + self.content).stylize_before(style),
            prefix=self.prefix + by,
            runs=[run.moved(by) for run in self.runs],
        )


EMPTY_LINE = Line(BLANK)


def joined_line(line: Line) -> Line:
    """`line`, as one that continues the line above it."""
    return replace(line, joined=True)


def sourced(lines: Sequence[Line], rows: Sequence[SourceLine]) -> list[Line]:
    """Lines with their sources; `rows` has one for each `Line.row`."""
    return [
        replace(line, source=rows[line.row]) if 0 <= line.row < len(rows) else line
        for line in lines
    ]


def one_row(lines: Sequence[Line]) -> list[Line]:
    """Lines whose rows are one: its characters are counted from the first row on."""
    ends: dict[int, int] = {}
    for line in lines:
        ends[line.row] = max(ends.get(line.row, 0), line.end)
    ends.pop(-1, None)
    starts = accumulate((end + 1 for end in ends.values()), initial=0)
    before = dict(zip(ends, starts, strict=False))
    return [
        line
        if line.row < 0
        else replace(line, row=0, runs=[run.moved(0, before[line.row]) for run in line.runs])
        for line in lines
    ]
