"""Selecting text of the conversation with the mouse."""

import re

from rich.cells import cell_len
from textual.scroll_view import ScrollView
from textual.timer import Timer

from qwen35_chat.drawing.layout import Layout
from qwen35_chat.drawing.selection import (
    Selection,
    at_cell,
    at_end,
    line_around,
    selected_text,
    word_around,
)
from qwen35_mlx.text.folding import folded_spans

AGAIN_SECONDS = 0.5  # within which another press in the same cell is a double click
STEP_SECONDS = 0.05  # between two steps while the pointer is at the edge of the view
# Before the first step in the top line, which the pointer cannot leave.
TOP_STEPS = 8
FASTEST = 10  # lines a step
STEPS_TO_SPEED = 20  # after which a step is a line longer
CHARACTER, WORD, LINE = 1, 2, 3  # presses, and what they select


class Selecting:
    """What is selected in a view, as the mouse changes it.

    While the button is down, the view does not follow the end.

    Args:
        view: shows `layout`, after a gutter of one cell and the indent of each entry.

    Attributes:
        selection: None if nothing is.
        acted: the last press has selected something; as a click it means nothing else.
    """

    def __init__(self, view: ScrollView, layout: Layout):
        self.selection: Selection | None = None
        self.acted = False
        self._view = view
        self._layout = layout
        self._presses = 0
        self._pressed_at = (0.0, -1, -1)  # time and cell of the last press
        self._origin: Selection | None = None  # what the press is on; None without a button down
        self._pointer = (0, 0)
        self._followed = False
        self._timer: Timer | None = None
        self._steps = 0

    @property
    def pressed(self) -> bool:
        """Whether the button is down."""
        return self._origin is not None

    @property
    def several(self) -> bool:
        """Whether the last press was of a double or triple click."""
        return self._presses > CHARACTER

    def press(self, x: int, y: int, time: float) -> None:
        """The button goes down in a cell of the view, at a time in seconds."""
        before, *cell = self._pressed_at
        again = cell == [x, y] and time - before <= AGAIN_SECONDS
        self._presses = self._presses % LINE + 1 if again else CHARACTER
        self._pressed_at = (time, x, y)
        self._pointer = (x, y)
        self.clear()
        self.acted = False
        self._followed = self._layout.following
        self._layout.following = False
        self._layout.keep_place(round(self._view.scroll_y))
        self._origin = self._at_pointer()
        if self.several:
            self._extend()

    def find(self, at: int, pattern: re.Pattern[str]) -> int | None:
        """Select the first match of a pattern in an entry; its line in the entry, None without.

        The pattern is for folded text.

        Args:
            at: the number of the entry, all of which is laid out.
        """
        entry, column = self._layout.entries[at], self._layout.column(at)
        for y in range(column.height):
            line = column.line(y)
            if line is None or line.source is None:
                continue
            plain = line.content.plain
            if (span := next(folded_spans(plain, pattern), None)) is None:
                continue
            before, last = plain[: span[0]], plain[: span[1]]
            start = at_cell(entry, column, y, cell_len(before)).start
            end = at_cell(entry, column, y, cell_len(last) - 1).end
            self.selection = Selection(start, end)
            self._view.refresh()
            return y
        return None

    def move(self, x: int, y: int) -> None:
        """The pointer is in another cell, which may be beyond the view."""
        if self._origin is None or self._pointer == (x, y):
            return
        self._pointer = (x, y)
        self._extend()
        if self._direction() and self._timer is None:
            self._steps = 0
            self._timer = self._view.set_interval(STEP_SECONDS, self._step)

    def release(self) -> str:
        """The button goes up. Returns what it has selected."""
        if self._origin is None:
            return ""
        self._origin = None
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self._layout.following = self._followed
        return self.text if self.acted else ""

    def scrolled(self) -> None:
        """The view is at another place; if that is the end, it is followed after the release."""
        if self._origin is not None:
            self._followed, self._layout.following = self._layout.following, False
            self._extend()

    def clear(self) -> bool:
        """Select nothing; whether something was."""
        was = bool(self.selection)
        self.selection = None
        if was:
            self._view.refresh()
        return was

    def keep_shown(self) -> None:
        """Clear what is selected if an end of it is in no entry any more."""
        if self.selection:
            keys = {entry.key for entry in self._layout.entries}
            if not {self.selection.start.entry, self.selection.end.entry} <= keys:
                self.clear()

    @property
    def text(self) -> str:
        """What is selected, as it was written."""
        if not self.selection:
            return ""
        return selected_text(self.selection, self._layout.entries, self._layout.columns)

    def _extend(self) -> None:
        """Select from the origin to the pointer."""
        if self._origin is None or (here := self._at_pointer()) is None:
            return
        selection = self._origin.with_(here)
        self.acted = self.acted or bool(selection)
        if selection != self.selection:
            self.selection = selection
            self._view.refresh()

    def _at_pointer(self) -> Selection | None:
        """The character, word or line at the pointer."""
        layout = self._layout
        x, y = self._pointer
        height = self._view.scrollable_content_region.height
        found = layout.at_line(round(self._view.scroll_y) + min(max(y, 0), height - 1))
        if found is None:
            return at_end(layout.entries[-1]) if layout.entries else None
        number, line = found
        entry, column = layout.entries[number], layout.column(number)
        here = at_cell(entry, column, line, x - 1 - entry.indent)
        if self._presses == WORD:
            return word_around(here.start, column)
        return line_around(here.start, column) if self._presses == LINE else here

    def _direction(self) -> int:
        """Lines to scroll in a step: more the farther the pointer is beyond, and after a while."""
        y = self._pointer[1]
        below = y - self._view.scrollable_content_region.height + 1
        faster = self._steps // STEPS_TO_SPEED
        if below > 0:
            return min(below + faster, FASTEST)
        return max(y - 1 - faster, -FASTEST) if y <= 0 else 0

    def _step(self) -> None:
        """Scroll while the pointer is at the edge, and select what comes into view."""
        lines = self._direction()
        if not lines:
            self._steps = 0
            return
        self._steps += 1
        if self._pointer[1] == 0 and self._steps <= TOP_STEPS:
            return
        self._view.scroll_to(y=self._view.scroll_y + lines, animate=False, immediate=True)
