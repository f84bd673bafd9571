"""The conversation on the screen: entries, the parts of which are laid out near the view.

The height of what was never near is an estimate. Parts within a screen of the view are laid out,
which corrects their heights before they can be seen; the view stays in its place. A frame's work is
therefore bounded by the size of the screen, however long a message is.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import ClassVar

from textual import work
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from qwen35_chat.drawing.entries import TranscriptEntry
from qwen35_chat.drawing.line import EMPTY_LINE, Line
from qwen35_chat.drawing.lines import Code
from qwen35_chat.drawing.parts import Column, Part
from qwen35_chat.textual_private import set_virtual_size
from qwen35_chat.widgets.strips import StripCache, within

MAX_COLUMNS = 110  # of text; longer lines are hard to read


class TranscriptView(ScrollView, can_focus=True):
    """Entries, oldest first. It follows the end unless the user has scrolled up.

    While it has the focus, one message is marked, and keys act on that.

    Attributes:
        entries: all of them. Change them by the methods, or call `lay_out` after a change.
        marked: one of them, or None.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "transcript--muted",
        "transcript--error",
        "transcript--heading",
        "transcript--user",
        "transcript--code",
        "transcript--code-head",
        "transcript--thinking",
        "transcript--thinking-head",
        "transcript--mark",
        "transcript--link",
    }

    class Clicked(Message):
        """Something in an entry was clicked.

        `name` is "code", "version" or "link"; `argument` is the code, the step to the other
        version, or the address.
        """

        def __init__(self, name: str, argument: str | int, entry: TranscriptEntry | None = None):
            super().__init__()
            self.name = name
            self.argument = argument
            self.entry = entry

    class Coloured(Message):
        """The code in these parts has got its colours."""

        def __init__(self, parts: Sequence[Part]):
            super().__init__()
            self.parts = parts

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[TranscriptEntry] = []
        self.marked: TranscriptEntry | None = None
        self._heights: list[int] = []
        self._measured: list[bool] = []  # whether the height is that of the entry's column
        self._tops: list[int] = [0]
        self._columns = 0
        self._following = True
        # The entry and the part at the top of the view, and the part's lines above the view.
        self._anchor = (0, 0, 0)
        self._laying_out = False
        self._colouring = False
        self._strips = StripCache(self)

    # Entries

    def show(self, entries: Iterable[TranscriptEntry]) -> None:
        """Replace all entries, and go to the end."""
        self.entries = list(entries)
        self.marked = None
        self._strips.clear()
        self._estimate_heights()
        self.follow()

    def add(self, entry: TranscriptEntry) -> None:
        self.entries.append(entry)
        self._heights.append(0)
        self._measured.append(False)
        self.lay_out()

    def drop(self, entry: TranscriptEntry) -> None:
        if entry not in self.entries:
            return
        at = self.entries.index(entry)
        del self.entries[at], self._heights[at], self._measured[at]
        if self.marked is entry:
            self.marked = None
        self.lay_out()

    def entry(self, key: int) -> TranscriptEntry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    def follow(self) -> None:
        """Go to the end and stay there."""
        self._following = True
        self.lay_out()

    def forget_layout(self) -> None:
        """Lay out again after many entries have changed."""
        self._estimate_heights()
        self.lay_out()

    # Layout

    def lay_out(self) -> None:
        """Lay out the entries in and near the view."""
        size = self.scrollable_content_region.size
        if not size.width or not size.height or self._laying_out:
            return
        self._laying_out = True
        try:
            columns = min(size.width - 1, MAX_COLUMNS)
            if columns != self._columns:
                self._columns = columns
                self._estimate_heights()
            if self._following:
                self._measure_up(len(self.entries) - 1, None, 2 * size.height)
            else:
                at, part, above = self._anchor
                self._measure_down(at, part, above + 2 * size.height)
                self._measure_up(at, part - 1, size.height)
            self._tops = [0, *accumulate(self._heights)]
            set_virtual_size(self, Size(size.width, self._tops[-1]))
            self.scroll_y = self.scroll_target_y = (
                self.max_scroll_y if self._following else self._top_line()
            )
            self._keep_place()
        finally:
            self._laying_out = False
        self._request_colours()
        self.refresh()

    def _estimate_heights(self) -> None:
        self._heights = [entry.estimate(self._columns) for entry in self.entries]
        self._measured = [False] * len(self.entries)

    def _column(self, at: int) -> Column:
        return self.entries[at].column(self._columns)

    def _measure_up(self, at: int, part: int | None, lines: int) -> None:
        """Lay out parts from one upwards, until they have this many lines.

        Args:
            at: the entry.
            part: its part; None for the last one.
        """
        while 0 <= at < len(self.entries) and lines > 0:
            column = self._column(at)
            last = len(column.parts) - 1
            lines = column.lay_out_up(last if part is None else min(part, last), lines)
            self._take_height(at)
            at, part = at - 1, None

    def _measure_down(self, at: int, part: int, lines: int) -> None:
        """As `_measure_up`, downwards."""
        while at < len(self.entries) and lines > 0:
            lines = self._column(at).lay_out_down(part, lines)
            self._take_height(at)
            at, part = at + 1, 0

    def _take_height(self, at: int) -> None:
        self._heights[at] = self._column(at).height
        self._measured[at] = True

    def _top_line(self) -> int:
        """The line at the top of the view, after heights have changed."""
        at, part, above = self._anchor
        if at >= len(self.entries):
            return self._tops[-1]
        column = self._column(at)
        return self._tops[at] + column.top(min(part, len(column.parts) - 1)) + above

    def _keep_place(self) -> None:
        y = round(self.scroll_y)
        at = max(bisect_right(self._tops, y) - 1, 0)
        if at >= len(self.entries):
            self._anchor = (at, 0, 0)
            return
        column = self._column(at)
        within = y - self._tops[at]
        if not self._measured[at]:  # the height is an estimate of the whole
            within = within * column.height // max(self._heights[at], 1)
        part = column.part_at(within)
        self._anchor = (at, part, within - column.top(part))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._laying_out and old_value != new_value:
            self._following = new_value >= self.max_scroll_y
            self._keep_place()
            self.lay_out()

    def on_resize(self) -> None:
        self.lay_out()

    # Colours of code, which take too long to wait for

    @property
    def colouring(self) -> bool:
        """Whether colours are being computed for code in view."""
        return self._colouring

    def _request_colours(self) -> None:
        top, height = round(self.scroll_y), self.scrollable_content_region.height
        first = max(bisect_right(self._tops, top) - 1, 0)
        plain: list[tuple[Part, list[Code]]] = []
        for at in range(first, min(bisect_right(self._tops, top + height), len(self.entries))):
            if self.entries[at].complete:
                column = self._column(at)
                start = column.part_at(top - self._tops[at])
                end = column.part_at(top + height - self._tops[at])
                for part in column.parts[start : end + 1]:
                    if codes := [code for code in part.codes if code.uncoloured]:
                        plain.append((part, codes))
        if plain and not self._colouring:
            self._colouring = True
            self._colour(plain)

    @work(thread=True, group="colours")
    def _colour(self, plain: Sequence[tuple[Part, Sequence[Code]]]) -> None:
        for _, codes in plain:
            for code in codes:
                code.colour()
        self.post_message(self.Coloured([part for part, _ in plain]))

    def on_transcript_view_coloured(self, event: Coloured) -> None:
        event.stop()
        self._colouring = False
        for part in event.parts:
            part.forget()
        self.lay_out()

    def scroll_page(self, direction: int) -> None:
        step = max(self.scrollable_content_region.height - 2, 1)
        self.scroll_to(y=self.scroll_y + direction * step, animate=False)

    # The marked message

    def mark(self, step: int) -> None:
        """Mark the message before (-1) or after (1); the last one if none is marked."""
        marks = [entry for entry in self.entries if entry.author]
        if not marks:
            return
        if self.marked not in marks:
            to = len(marks) - 1
        else:
            to = min(max(marks.index(self.marked) + step, 0), len(marks) - 1)
        self.marked = marks[to]
        at = self.entries.index(self.marked)
        height = self.scrollable_content_region.height
        if height:
            self._measure_down(at, 0, height)
            self._tops = [0, *accumulate(self._heights)]
            top, bottom = self._tops[at], self._tops[at + 1]
            if top < self.scroll_y or bottom - top > height:
                self.scroll_to(y=top, animate=False)
            elif bottom > self.scroll_y + height:
                self.scroll_to(y=bottom - height, animate=False)
        self.refresh()

    def mark_message(self, message: int | None) -> None:
        """Mark the message with this id, or else the last one."""
        self.marked = next((e for e in self.entries if e.author and e.message == message), None)
        self.mark(0)

    def on_focus(self) -> None:
        if self.marked is None:
            self.mark(0)

    def on_blur(self) -> None:
        self.marked = None
        self.refresh()

    # Drawing

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()

    def _line(self, y: int) -> tuple[TranscriptEntry, Line] | None:
        if not 0 <= y < self._tops[-1]:
            return None
        at = bisect_right(self._tops, y) - 1
        line = self._column(at).line(y - self._tops[at])
        return self.entries[at], line or EMPTY_LINE

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines in view.

        The widget has neither border nor padding, so this leaves out the pass of Textual that adds
        these, which takes longer than the lines themselves.
        """
        top, width = round(self.scroll_y), self.scrollable_content_region.width
        selection = self.text_selection
        strips = [self._drawn(top + y, width, selection) for y in crop.line_range]
        _, background = self.background_colors
        for line_filter in self.get_line_filters():
            strips = [strip.apply_filter(line_filter, background) for strip in strips]
        hover = self.hover_style
        if hover.link_id and "@click" in hover.meta:
            strips = [strip.style_links(hover.link_id, self.link_style_hover) for strip in strips]
        if crop.column_span != (0, self.size.width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def _drawn(self, at: int, width: int, selection: Selection | None) -> Strip:
        """The line that is `at` lines from the beginning."""
        found = self._line(at)
        if found is None:
            return Strip.blank(width, self.visual_style.rich_style)
        entry, line = found
        span = selection.get_span(at) if selection is not None else None
        strip = self._strips.strip(
            line,
            indent=entry.indent,
            columns=self._columns,
            width=width,
            marked=entry is self.marked,
            selected=span,
        )
        return strip.apply_offsets(0, at)

    # Selection and clicks

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        if not self.entries:
            return None
        if selection.start is None and selection.end is None:
            # All of it, as it was written: most of it was never laid out.
            return "\n\n".join(entry.copy_text for entry in self.entries), "\n"
        first = selection.start.y if selection.start else 0
        last = selection.end.y if selection.end else self._tops[-1] - 1
        parts: list[str] = []
        for y in range(first, last + 1):
            if (found := self._line(y)) is None:
                continue
            entry, line = found
            text = line.content.plain
            start, end = within(selection.get_span(y) or (0, -1), entry.indent, text)
            if parts and not line.joined:
                parts.append("\n")
            parts.append(text[max(start, line.prefix) : end])
        return "".join(parts).rstrip("\n"), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def action_copy_code(self, number: int) -> None:
        y = self.app.mouse_position.y - self.content_region.y + round(self.scroll_y)
        if not 0 <= y < self._tops[-1]:
            return
        at = bisect_right(self._tops, y) - 1
        column = self._column(at)
        codes = column.parts[column.part_at(y - self._tops[at])].codes
        if number < len(codes):
            self.post_message(self.Clicked("code", codes[number].code, self.entries[at]))

    def action_fold(self, key: int) -> None:
        if entry := self.entry(key):
            entry.toggle()
            self.lay_out()

    def action_version(self, key: int, step: int) -> None:
        self.post_message(self.Clicked("version", step, self.entry(key)))

    def action_open_link(self, href: str) -> None:
        self.post_message(self.Clicked("link", href))
