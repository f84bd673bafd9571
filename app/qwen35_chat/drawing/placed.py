"""Blocks of Markdown, and the lines of the source that they show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwen35_chat.drawing.line import Line, one_row, sourced
from qwen35_chat.drawing.lines import Code, TextBlock
from qwen35_chat.drawing.source_lines import Kind, SourceLine, SourceText


@dataclass(frozen=True, slots=True)
class Placed:
    """A block and its place.

    Attributes:
        first, end: its lines in the source, without the fences of code; none of a block that shows
            none.
    """

    block: TextBlock
    kind: Kind = "prose"
    first: int = 0
    end: int = 0

    def lines(self, width: int, text: SourceText) -> list[Line]:
        """Its lines in `width` cells; `text` is its source."""
        lines = self.block.lines(width)
        rows = 1 + max((line.row for line in lines), default=-1)
        if self.first >= self.end or not rows:
            return lines
        apart = self.kind in ("code", "table") or rows == self.end - self.first
        if not apart or self.kind == "formula":
            whole = text.line(self.first, self.end, text.start(self.first), self.kind)
            return sourced(one_row(lines), [whole])
        return sourced(lines, self._rows(rows, text))

    def _rows(self, rows: int, text: SourceText) -> list[SourceLine]:
        block, indent = text.start(self.first), 0
        numbers = [self.first + n for n in range(rows)]
        if isinstance(self.block, Code):
            code = self.block.code.split("\n")
            pairs = zip(code, text.lines[self.first :], strict=False)
            indent = max((len(line) - len(shown) for shown, line in pairs if shown), default=0)
        elif self.kind == "table":  # the line below the head is no row
            numbers = [number + (n > 0) for n, number in enumerate(numbers)]
        return [text.line(n, n + 1, block, self.kind, indent) for n in numbers]


@dataclass(frozen=True, slots=True)
class Stacked:
    """Blocks one above the other, as one."""

    blocks: Sequence[TextBlock]

    def lines(self, width: int) -> list[Line]:
        lines: list[Line] = []
        for block in self.blocks:
            above = 1 + max((line.row for line in lines), default=-1)
            lines += [
                replace(line, row=line.row + above) if line.row >= 0 else line
                for line in block.lines(width)
            ]
        return lines
