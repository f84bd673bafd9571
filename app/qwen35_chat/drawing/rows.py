"""What is shown of a line of a message, however the screen wraps it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual.style import Style

from qwen35_chat.drawing.line import CELL, SOURCE, Line
from qwen35_chat.drawing.parts import Column
from qwen35_chat.drawing.source_lines import SourceLine
from qwen35_chat.drawing.words import word_at


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a message.

    Attributes:
        source: the line as it was written.
        cells: what is shown of it, as the cells of a table; one if it is of none.
        formulas: the start and the end of each, and how it was written.
    """

    source: SourceLine
    cells: Sequence[str]
    formulas: Sequence[tuple[int, int, str]] = ()

    @property
    def end(self) -> int:
        """The place after its last character; places count as in `Run.at`."""
        return (len(self.cells) - 1) * CELL + len(self.cells[-1])

    def text(self, start: int, end: int) -> str:
        """What is between two places of the same cell, with formulas as they were written."""
        pieces: list[str] = []
        for first, last, written in self.formulas:
            if first < end and last > start:
                pieces += [self._shown(start, first), written]
                start = last
        return "".join([*pieces, self._shown(start, end)])

    def _shown(self, start: int, end: int) -> str:
        cell, first = divmod(start, CELL)
        last = max(end - cell * CELL, first)
        return self.cells[cell][first:last] if cell < len(self.cells) else ""

    def word(self, place: int) -> tuple[int, int]:
        """Where the word at a place begins and ends."""
        cell, at = divmod(place, CELL)
        if cell >= len(self.cells):
            return place, place
        start, end = word_at(self.cells[cell], at, code=self.source.kind == "code")
        return cell * CELL + start, cell * CELL + end


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """The rows of the lines of a part."""
    rows: list[Row] = []
    at = 0
    while at < len(lines):
        source, first = lines[at].source, at
        while at < len(lines) and lines[at].source is source:
            at += 1
        if source is not None:
            shown = lines[first:at]
            rows.append(Row(source, _cells(source, shown), _formulas(shown)))
    return rows


def _cells(source: SourceLine, lines: Sequence[Line]) -> list[str]:
    """Characters that the lines lack are a tab, or the space at which a cell was broken."""
    gap = " " if source.kind == "table" else "\t"
    texts: dict[int, str] = {}
    for line in lines:
        for run in line.runs:
            cell, at = divmod(run.at, CELL)
            text = texts.get(cell, "")
            text += gap * (at - len(text)) + line.content.plain[run.start : run.end]
            texts[cell] = text
    return [texts.get(n, "") for n in range(max(texts, default=0) + 1)]


def _formulas(lines: Sequence[Line]) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    for line in lines:
        for span in line.content.spans:
            if not isinstance(span.style, Style) or SOURCE not in span.style.meta:
                continue
            written = span.style.meta[SOURCE]
            for run in line.runs:
                start, end = max(run.start, span.start), min(run.end, span.end)
                if start >= end:
                    continue
                at = run.at + start - run.start
                if found and found[-1][1] == at and found[-1][2] == written:  # it was broken
                    found[-1] = found[-1][0], at + end - start, written
                else:
                    found.append((at, at + end - start, written))
    return sorted(found)


def rows_from(column: Column, stream: int, start: int) -> Iterator[Row]:
    """The rows of a text from the one with a place on.

    Args:
        stream, start: the text and the place in it, as for `SourceLine`.
    """
    for at in range(_part_with(column, stream, start), len(column.parts)):
        for row in _rows_in(column, at, stream):
            if row.source.end >= start:
                yield row


def rows_back(column: Column, stream: int, start: int) -> Iterator[Row]:
    """As `rows_from`, backwards."""
    for at in range(_part_with(column, stream, start), -1, -1):
        for row in reversed(_rows_in(column, at, stream)):
            if row.source.start <= start:
                yield row


def _part_with(column: Column, stream: int, start: int) -> int:
    places = [(part.place, at) for at, part in enumerate(column.parts)]
    return max((at for place, at in places if place and place <= (stream, start)), default=0)


def _rows_in(column: Column, at: int, stream: int) -> list[Row]:
    part = column.parts[at]
    if part.place is None or part.place[0] != stream:
        return []
    return rows_of(part.lines(column.width))
