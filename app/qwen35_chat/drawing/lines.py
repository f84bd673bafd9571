"""The blocks of a text, which are laid out as lines of the screen.

Styles are names: `.muted` is the component class `transcript--muted`, and others are Textual
styles. A change of the theme therefore needs no new layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rich.cells import cell_len
from textual.content import Content
from textual.style import Style

from qwen35_chat.drawing.line import BLANK, CELL, EMPTY_LINE, Line, Run, one_row
from qwen35_chat.drawing.line_breaks import widest_unit
from qwen35_chat.drawing.wrapping import wrap
from qwen35_chat.graphemes import cut

LONGEST_WORD = 16  # cells; a table that would have to break shorter words becomes records
LONGEST_HIGHLIGHT = 60_000  # characters; colouring more would hold the GIL for too long


class TextBlock(Protocol):
    """A part of a message."""

    def lines(self, width: int) -> list[Line]:
        """Its lines, each at most `width` cells wide."""
        ...


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text. Attributes: as the arguments of `wrap`."""

    content: Content
    first: str = ""
    rest: str = ""
    fill: str = ""

    def lines(self, width: int) -> list[Line]:
        return wrap(self.content, width, self.first, self.rest, self.fill)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, the first of which has a line below it.

    Attributes:
        tag: "h1" to "h6".
        content, first, rest: as for `Paragraph`.
    """

    content: Content
    tag: str
    first: str = ""
    rest: str = ""

    def lines(self, width: int) -> list[Line]:
        lines = wrap(self.content, width, self.first, self.rest)
        if self.tag == "h1":
            longest = max(cell_len(line.content.plain[line.prefix :].rstrip()) for line in lines)
            across = cut(f"{self.rest}{'─' * longest}", width)
            lines.append(Line(Content.styled(across, ".muted"), len(across)))
        return lines


@dataclass(slots=True, eq=False)
class Code:
    """Code as it was written, in a box of its own colour.

    Attributes:
        number: its place among the blocks of its part, for copying; None while it is being
            written, when it gets no colours either.
        first, rest: before the line above it, and before each other line.
        colours: its lines with colours, once these have been computed.
    """

    code: str
    language: str = ""
    number: int | None = None
    first: str = ""
    rest: str = ""
    colours: Sequence[Content] | None = field(default=None, init=False)
    _coloured: bool = field(default=False, init=False)

    def lines(self, width: int) -> list[Line]:
        return CodeLines(self, self._text, 0, head=True).lines(width)

    def header(self, width: int) -> Line:
        """The line above it, with its language."""
        name = cut(f"{self.first} {self.language or 'code'}", width)
        label = Content.styled(name, ".code-head")
        room = width - cell_len(name) - len("copy") - 1
        if self.number is not None and room > 0:
            copy = Content.styled("copy", ".link").stylize(action("copy_code", self.number))
            label = label + " " * room + copy
        return Line(label, len(label.plain), fill=".code-head")

    def close(self, code: str, *, whole_lines: bool) -> None:
        """It ends here, after parts of it were laid out.

        Args:
            whole_lines: whether each of these was made of whole lines, which can get colours.
        """
        self.code, self.number = code, 0
        self._coloured = not whole_lines

    @property
    def _text(self) -> str:
        return self.code.rstrip("\n")

    @property
    def uncoloured(self) -> bool:
        """Whether `colour` may still make a difference."""
        return (
            not self._coloured
            and self.number is not None
            and bool(self.language)
            and len(self.code) <= LONGEST_HIGHLIGHT
        )

    def colour(self) -> None:
        """Give colours to the lines that are laid out from now on.

        This takes as long as a hundred frames for a long block, and may run on any thread.
        """
        # Imported when first needed: pygments takes long to load.
        from qwen35_chat.drawing.colours import coloured

        self._coloured = True
        self.colours = coloured(self._text, self.language)


@dataclass(frozen=True, slots=True)
class CodeLines:
    """Some lines of a block of code.

    Attributes:
        text: these lines.
        first: the number of the first one in the block, from 0.
        head: whether the line above the block comes first.
    """

    whole: Code
    text: str
    first: int
    head: bool = False

    @property
    def codes(self) -> list[Code]:
        return [self.whole]

    def lines(self, width: int) -> list[Line]:
        lines = [self.whole.header(width)] if self.head else []
        contents: Sequence[Content] = [Content(line) for line in self.text.split("\n")]
        if self.whole.colours is not None:
            contents = self.whole.colours[self.first : self.first + len(contents)]
        prefix = f"{self.whole.rest} "
        for row, content in enumerate(contents):
            lines += wrap(content, width - 1, prefix, prefix, ".code", row)
        return lines


def action(name: str, *arguments: object) -> Style:
    """A style that makes text clickable, for an action of the transcript."""
    return Style.from_meta({"@click": (name, arguments)})


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line. Attributes: as for `Paragraph`."""

    first: str = ""
    rest: str = ""

    def lines(self, width: int) -> list[Line]:
        shown = cut(self.first + "─" * max(width - cell_len(self.first), 0), width)
        return [Line(Content.styled(shown, ".muted"), len(shown))]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; on a narrow screen each row becomes a record.

    Attributes:
        continued: its head is above it already.
        aligns: "left", "center" or "right" for each column; "" is left as well.
    """

    head: Sequence[Content]
    rows: Sequence[Sequence[Content]]
    rest: str = ""
    continued: bool = False
    aligns: Sequence[str] = ()

    def lines(self, width: int) -> list[Line]:
        columns = len(self.head)
        room = width - cell_len(self.rest) - 2 * (columns - 1)
        natural = [max(1, *map(cell_len, self._texts(n)), 1) for n in range(columns)]
        least = [self._least(n) for n in range(columns)]
        if room < sum(least):
            return self._records(width)
        widths = _shares(natural, least, room)
        lines: list[Line] = []
        if not self.continued:
            lines += self._row(0, self.head, widths, ".heading")
            across = self.rest + "  ".join("─" * cells for cells in widths)
            across = cut(across, width)
            lines.append(Line(Content.styled(across, ".muted"), len(across)))
        rows = [self._row(n, row, widths, "") for n, row in enumerate(self.rows, 1)]
        apart = any(len(row) > 1 for row in rows)
        for n, row in enumerate(rows):
            if apart and n:
                lines.append(EMPTY_LINE)
            lines += row
        return lines

    def _texts(self, column: int) -> list[str]:
        return [row[column].plain for row in [self.head, *self.rows] if column < len(row)]

    def _least(self, column: int) -> int:
        """The cells that the longest word of a column takes."""
        return min(max(1, *map(widest_unit, self._texts(column))), LONGEST_WORD)

    def _row(
        self, row: int, cells: Sequence[Content], widths: Sequence[int], style: str
    ) -> list[Line]:
        broken = []
        for n, cells_wide in enumerate(widths):
            cell = cells[n] if n < len(cells) else BLANK
            broken.append(one_row(wrap(cell, cells_wide)))
        lines: list[Line] = []
        for n in range(max(map(len, broken))):
            parts: list[Content | str] = [self.rest]
            at, runs = len(self.rest), []
            for k, cells_wide in enumerate(widths):
                line = broken[k][n] if n < len(broken[k]) else EMPTY_LINE
                part = line.content.rstrip()
                space = max(cells_wide - cell_len(part.plain), 0)
                align = self.aligns[k] if k < len(self.aligns) else ""
                left = {"right": space, "center": space // 2}.get(align, 0)
                right = space - left + 2 if k < len(widths) - 1 else 0
                cell = _cell_runs(line.runs, k, len(part.plain))
                runs += [run.moved(at + left) for run in cell]
                shown = part.stylize_before(style) if style else part
                parts += [" " * left, shown, " " * right]
                at += left + len(part.plain) + right
            lines.append(Line(Content("").join(parts), len(self.rest), row=row, runs=runs))
        return lines

    def _records(self, width: int) -> list[Line]:
        lines: list[Line] = []
        for number, row in enumerate(self.rows, 1):
            if lines:
                lines.append(EMPTY_LINE)
            for k, (name, cell) in enumerate(zip(self.head, row, strict=False)):
                label = Content.styled(f"{name.plain}: ", ".heading")
                for line in one_row(wrap(label + cell, width, self.rest, self.rest)):
                    runs = _cell_runs(line.runs, k, len(line.content.plain), len(label.plain))
                    lines.append(replace(line, row=number, runs=runs))
        return lines


def _cell_runs(runs: Sequence[Run], cell: int, end: int, label: int = 0) -> list[Run]:
    """The runs of a cell's line, as those of its row.

    Args:
        cell: its number.
        end: of the line; the spaces after that are not shown.
        label: characters before the cell, which are decoration.
    """
    found: list[Run] = []
    for run in runs:
        start = min(run.start + max(label - run.at, 0), run.end)
        at = max(run.at + start - run.start - label, 0)
        found.append(Run(min(start, end), min(run.end, end), cell * CELL + at))
    return found


def _shares(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns that together fit `room`.

    The widest ones are cut first, and none below its `least`; `room` must have place for these.
    """
    widths = list(natural)
    while (excess := sum(widths) - room) > 0:
        wide = [n for n, cells in enumerate(widths) if cells > least[n]]
        widest = max(widths[n] for n in wide)
        top = [n for n in wide if widths[n] == widest]
        # Down to the next width, or to where one of these reaches its least.
        stop = max([widths[n] for n in wide if widths[n] < widest] + [least[n] for n in top])
        cut = min(widest - stop, -(-excess // len(top)))
        for n in top:
            widths[n] -= min(cut, max(sum(widths) - room, 0))
    return widths
