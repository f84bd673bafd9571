"""What is selected in a conversation: places in its texts, not on the screen."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.line import CELL, Line, Run
from qwen35_chat.drawing.parts import Column
from qwen35_chat.drawing.rows import Row, rows_back, rows_from
from qwen35_chat.graphemes import cells_before, graphemes, starts

LAST = 1 << 60  # after everything in an entry
_RULE = re.compile(r"[ \t>]*\|?[ \t]*:?-[-|: \t]*")  # below the head of a table
WHOLE = ("table", "formula")  # rows that are copied whole


class Place(NamedTuple):
    """A place between two characters. Places compare as they follow each other.

    Attributes:
        entry: the key of its entry.
        stream, start: of its line, as in `SourceLine`.
        at: the place in the line's row, as in `Run.at`.
    """

    entry: int
    stream: int
    start: int
    at: int

    def moved(self, at: int) -> "Place":
        """Another place in the same row."""
        return Place(self.entry, self.stream, self.start, at)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is between two places."""

    start: Place
    end: Place

    def __bool__(self) -> bool:
        return self.start < self.end

    def with_(self, other: "Selection") -> "Selection":
        """Both, and what is between them."""
        return Selection(min(self.start, other.start), max(self.end, other.end))

    def within(self, entry: int, line: Line) -> tuple[int, int] | None:
        """The characters of a line's content that are selected; None for none.

        Args:
            entry: the key of the line's entry.
        """
        if line.source is None:
            return None
        place = entry, line.source.stream, line.source.start
        if not self.start[:3] <= place <= self.end[:3]:
            return None
        start = self.start.at if place == self.start[:3] else 0
        end = self.end.at if place == self.end[:3] else LAST
        found = [
            (_clamped(run, start), _clamped(run, end))
            for run in line.runs
            if run.at < end and run.at + run.end - run.start > start
        ]
        return (found[0][0], found[-1][1]) if found else None


def _clamped(run: Run, at: int) -> int:
    """The character of the content at a place of the row, or the nearest one of the run."""
    return min(max(run.start + at - run.at, run.start), run.end)


def at_cell(entry: TranscriptEntry, column: Column, y: int, x: int) -> Selection:
    """The character in a cell of the screen; nothing, at the nearest place, if none is there.

    Args:
        y: the line in the entry's column.
        x: the cell in that line.
    """
    while y < column.height and ((line := column.line(y)) is None or line.source is None):
        y, x = y + 1, -1
    line = column.line(y)
    if line is None or line.source is None:
        return at_end(entry)
    start, end = _character(line.content.plain, x)
    first, last = _in_row(line.runs, start), _in_row(line.runs, end)
    where = entry.key, line.source.stream, line.source.start
    return Selection(Place(*where, first), Place(*where, last))


def at_end(entry: TranscriptEntry) -> Selection:
    """Nothing, at the end of an entry."""
    place = Place(entry.key, LAST, 0, 0)
    return Selection(place, place)


def _character(text: str, x: int) -> tuple[int, int]:
    """The characters in a cell of a text, as far as they are drawn together."""
    if x < 0:
        return 0, 0
    clusters = graphemes(text)
    at = bisect_right(cells_before(clusters), x) - 1
    edges = starts(clusters)
    return edges[at], edges[min(at + 1, len(clusters))]


def _in_row(runs: Sequence[Run], character: int) -> int:
    """The place in the row of a character of the content, or the nearest one."""
    nearest = min(runs, key=lambda run: max(run.start - character, character - run.end, 0))
    return nearest.at + min(max(character, nearest.start), nearest.end) - nearest.start


def word_around(place: Place, column: Column) -> Selection:
    """The word at a place, in the column of its entry."""
    row = next(rows_from(column, place.stream, place.start), None)
    if row is None or place.stream == LAST:
        return Selection(place, place)
    start, end = row.word(place.at)
    return Selection(place.moved(start), place.moved(end))


def line_around(place: Place, column: Column) -> Selection:
    """The line of the message at a place, in the column of its entry."""
    row = next(rows_from(column, place.stream, place.start), None)
    if row is None or place.stream == LAST:
        return Selection(place, place)
    return Selection(place.moved(0), place.moved(row.end))


def selected_text(selection: Selection, entries: Iterable[TranscriptEntry], columns: int) -> str:
    """What is selected, as it was written.

    Within one paragraph this is what is shown; of several, those that are complete have their
    marks. Code has neither breaks of the screen nor the indent of its list. Of a table, more than
    a part of one cell are whole rows, with the head.

    Args:
        columns: cells in which the entries are laid out.
    """
    texts = [
        _of_entry(entry, selection, columns)
        for entry in entries
        if selection.start.entry <= entry.key <= selection.end.entry
    ]
    return "\n\n".join(text for text in texts if text.strip()).rstrip()


def _of_entry(entry: TranscriptEntry, selection: Selection, columns: int) -> str:
    first = selection.start if selection.start.entry == entry.key else None
    last = selection.end if selection.end.entry == entry.key else None
    texts: list[str] = []
    for stream, source in enumerate(entry.sources):
        before = first is not None and stream < first.stream
        after = last is not None and stream > last.stream
        if before or after or not source.strip():
            continue
        start = first if first is not None and first.stream == stream else None
        end = last if last is not None and last.stream == stream else None
        if start is None and end is None:
            texts.append(source.strip("\n"))
        else:
            texts.append(_of_source(entry.column(columns), stream, source, start, end))
    return "\n\n".join(text for text in texts if text.strip())


class _End(NamedTuple):
    """An end of what is selected: a row, and the place in it."""

    row: Row
    at: int


def _of_source(
    column: Column, stream: int, source: str, start: Place | None, end: Place | None
) -> str:
    first = _first(column, start or Place(0, stream, 0, 0))
    last = _last(column, end or Place(0, stream, LAST, LAST))
    if first is None or last is None:
        return ""  # nothing of it is shown
    if not _same_block(first, last, source):
        # Up to its ends it has what is not shown as well, such as the fence of code.
        if start is None:
            return (source[: last.row.source.start] + _up_to(last, source)).strip("\n")
        if end is None:
            return (_from(first, source) + source[first.row.source.end :]).strip("\n")
    return _between(column, stream, source, first, last)


def _same_block(first: _End, last: _End, source: str) -> bool:
    one, other = first.row.source, last.row.source
    if one.kind == other.kind == "table":  # a long one has several sections, which are blocks
        return "\n\n" not in source[one.start : other.start]
    return one.block == other.block and one.kind == other.kind != "plain"


def _first(column: Column, place: Place) -> _End | None:
    """The first row that something is selected of."""
    for row in rows_from(column, place.stream, place.start):
        if row.source.start > place.start:
            return _End(row, 0)
        if place.at < row.end or row.end == 0:
            return _End(row, place.at)
    return None


def _last(column: Column, place: Place) -> _End | None:
    """The last row that something is selected of."""
    for row in rows_back(column, place.stream, place.start):
        if row.source.start < place.start:
            return _End(row, row.end)
        if place.at > 0:
            return _End(row, min(place.at, row.end))
    return None


def _between(column: Column, stream: int, source: str, first: _End, last: _End) -> str:
    one, other = first.row.source, last.row.source
    if other.start < one.start:
        return ""
    block = _same_block(first, last, source)
    if block and one.kind == "table":
        return _of_table(source, first, last)
    if one.start == other.start:
        if one.kind == "formula":
            return source[one.start : one.end].strip()
        return first.row.text(first.at, last.at)
    if block:
        if one.kind == "code":
            lines = source[one.start : other.end].split("\n")
            inner = [line[one.indent :] for line in lines[1:-1]]
        else:
            rows = rows_from(column, stream, one.start)
            upto = takewhile(lambda row: row.source.start < other.start, rows)
            inner = [row.text(0, row.end) for row in upto][1:]
        head, tail = first.row.text(first.at, first.row.end), last.row.text(0, last.at)
        return "\n".join([head, *inner, tail])
    return _from(first, source) + source[one.end : other.start] + _up_to(last, source)


def _of_table(source: str, first: _End, last: _End) -> str:
    one, other = first.row.source, last.row.source
    if one.start == other.start:
        if first.at // CELL == max(last.at - 1, first.at) // CELL:
            return first.row.text(first.at, last.at).strip()
        return source[one.start : one.end].strip()
    above = source[: one.start].split("\n")
    rule = max((n for n, line in enumerate(above) if _RULE.fullmatch(line)), default=0)
    rows = source[one.start : other.end]
    is_head = _RULE.fullmatch(rows.split("\n", 2)[1])
    return rows if is_head or not rule else "\n".join([*above[rule - 1 : rule + 1], rows])


def _from(end: _End, source: str) -> str:
    """A row from a place on."""
    row = end.row
    if end.at == 0 or row.source.kind in WHOLE:
        return source[row.source.start : row.source.end]
    return row.text(end.at, row.end)


def _up_to(end: _End, source: str) -> str:
    """A row up to a place."""
    row = end.row
    if end.at >= row.end or row.source.kind in WHOLE:
        return source[row.source.start : row.source.end]
    return row.text(0, end.at)
