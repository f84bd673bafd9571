"""Where the entries of a conversation are, one above the other.

The height of what was never near the view is an estimate. Parts within a screen of the view are
laid out, which corrects their heights before they can be seen; the view stays in its place. A
frame's work is therefore bounded by the size of the screen, however long a message is.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.line import EMPTY_LINE, Line
from qwen35_chat.drawing.parts import Column, Part


class Layout:
    """Entries, and the place of the view among them.

    Attributes:
        entries: oldest first; change them by the methods.
        columns: cells of text.
        following: the view is at the end and stays there.
    """

    def __init__(self) -> None:
        self.entries: list[TranscriptEntry] = []
        self.columns = 0
        self.following = True
        self._heights: list[int] = []
        self._measured: list[bool] = []  # whether the height is that of the entry's column
        self._tops: list[int] = [0]
        # The entry and the part at the top of the view, and the part's lines above the view. The
        # place of the part finds it again after others of the entry were folded or unfolded.
        self._anchor = (0, 0, 0)
        self._anchor_place: tuple[int, int] | None = None

    # Entries

    def show(self, entries: Iterable[TranscriptEntry]) -> None:
        """Replace all entries."""
        self.entries = list(entries)
        self.estimate_heights()

    def add(self, entry: TranscriptEntry) -> None:
        self.entries.append(entry)
        self._heights.append(0)
        self._measured.append(False)
        self._tops.append(self.height)

    def drop(self, entry: TranscriptEntry) -> None:
        at = self.entries.index(entry)
        del self.entries[at], self._heights[at], self._measured[at]
        self._place()

    # Heights

    def estimate_heights(self) -> None:
        """Forget the heights, after many entries or the width have changed."""
        self._heights = [entry.estimate(self.columns) for entry in self.entries]
        self._measured = [False] * len(self.entries)
        self._place()

    def lay_out(self, columns: int, height: int) -> None:
        """Lay out the entries in and near a view of `height` lines, which stays where it is."""
        if columns != self.columns:
            self.columns = columns
            self.estimate_heights()
        if self.following:
            self._measure_up(len(self.entries) - 1, None, 2 * height)
        else:
            at, part, above = self._anchored()
            self._measure_down(at, part, above + 2 * height)
            self._measure_up(at, part - 1, height)
        self._place()

    def lay_out_entry(self, at: int, lines: int) -> None:
        """Lay out entries from one on, until they have this many lines."""
        self._measure_down(at, 0, lines)
        self._place()

    def lay_out_whole(self, at: int) -> None:
        """Lay out all of an entry."""
        self.column(at).lay_out_down(0, sys.maxsize)
        self._take_height(at)
        self._place()

    def _place(self) -> None:
        self._tops = [0, *accumulate(self._heights)]

    def _measure_up(self, at: int, part: int | None, lines: int) -> None:
        """Lay out parts from one upwards, until they have this many lines.

        Args:
            at: the entry.
            part: its part; None for the last one.
        """
        while 0 <= at < len(self.entries) and lines > 0:
            column = self.column(at)
            last = len(column.parts) - 1
            lines = column.lay_out_up(last if part is None else min(part, last), lines)
            self._take_height(at)
            at, part = at - 1, None

    def _measure_down(self, at: int, part: int, lines: int) -> None:
        """As `_measure_up`, downwards."""
        while at < len(self.entries) and lines > 0:
            lines = self.column(at).lay_out_down(part, lines)
            self._take_height(at)
            at, part = at + 1, 0

    def _take_height(self, at: int) -> None:
        self._heights[at] = self.column(at).height
        self._measured[at] = True

    # Places; lines count from the beginning of the conversation

    @property
    def height(self) -> int:
        """The number of lines, as far as it is known."""
        return self._tops[-1]

    def column(self, at: int) -> Column:
        """The parts of an entry."""
        return self.entries[at].column(self.columns)

    def bounds(self, at: int) -> tuple[int, int]:
        """The first line of an entry, and the one after its last."""
        return self._tops[at], self._tops[at + 1]

    def at_line(self, y: int) -> tuple[int, int] | None:
        """The entry with line `y`, and which line of it that is; None if there is no such line."""
        if not 0 <= y < self._tops[-1]:
            return None
        at = bisect_right(self._tops, y) - 1
        return at, y - self._tops[at]

    def line(self, y: int) -> tuple[TranscriptEntry, Line] | None:
        """Line `y` and its entry."""
        if (found := self.at_line(y)) is None:
            return None
        at, within = found
        return self.entries[at], self.column(at).line(within) or EMPTY_LINE

    def part_at(self, y: int) -> tuple[TranscriptEntry, Part] | None:
        """The part with line `y` and its entry."""
        if (found := self.at_line(y)) is None:
            return None
        at, within = found
        column = self.column(at)
        return self.entries[at], column.parts[column.part_at(within)]

    def parts_in(self, top: int, height: int) -> Iterator[tuple[TranscriptEntry, Part]]:
        """The parts that have lines in a view."""
        first = max(bisect_right(self._tops, top) - 1, 0)
        for at in range(first, min(bisect_right(self._tops, top + height), len(self.entries))):
            column = self.column(at)
            start = column.part_at(top - self._tops[at])
            end = column.part_at(top + height - self._tops[at])
            for part in column.parts[start : end + 1]:
                yield self.entries[at], part

    # The place of the view

    def _anchored(self) -> tuple[int, int, int]:
        at, part, above = self._anchor
        if at >= len(self.entries):
            return at, 0, 0
        parts = self.column(at).parts
        if self._anchor_place is not None:
            places = [part.place for part in parts]
            if places[part : part + 1] != [self._anchor_place] and self._anchor_place in places:
                part = places.index(self._anchor_place)
        return at, min(part, len(parts) - 1), above

    def top_line(self) -> int:
        """The line at the top of the view, after heights have changed."""
        at, part, above = self._anchored()
        if at >= len(self.entries):
            return self._tops[-1]
        return self._tops[at] + self.column(at).top(part) + above

    def keep_place(self, y: int) -> None:
        """The view begins at line `y`."""
        at = max(bisect_right(self._tops, y) - 1, 0)
        if at >= len(self.entries):
            self._anchor, self._anchor_place = (at, 0, 0), None
            return
        column = self.column(at)
        within = y - self._tops[at]
        if not self._measured[at]:  # the height is an estimate of the whole
            within = within * column.height // max(self._heights[at], 1)
        part = column.part_at(within)
        self._anchor = (at, part, within - column.top(part))
        self._anchor_place = column.parts[part].place
