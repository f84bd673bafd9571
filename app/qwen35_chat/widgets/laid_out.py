"""The layout of the conversation on the screen, as it is scrolled; code gets its colours later."""

from collections.abc import Callable, Sequence

from textual import work
from textual.geometry import Size
from textual.message import Message

from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.layout import Layout
from qwen35_chat.drawing.lines import Code
from qwen35_chat.drawing.parts import Part
from qwen35_chat.textual_private import SteadyScrollView, set_virtual_size


class LaidOutView(SteadyScrollView):
    """Entries, of which those in and near the view are laid out.

    Attributes:
        rows: the layout.
    """

    class Coloured(Message):
        """The code in these parts has got its colours."""

        def __init__(self, parts: Sequence[Part]):
            super().__init__()
            self.parts = parts

    def __init__(self) -> None:
        super().__init__()
        self.rows = Layout()
        self._laying_out = False
        self._colouring = False
        self._awaited: Callable[[], None] | None = None

    def once_laid_out(self, action: Callable[[], None]) -> None:
        """Do this after the next layout, in place of what was to be done then."""
        self._awaited = action

    def forget_awaited(self) -> None:
        """Do nothing after the next layout."""
        self._awaited = None

    def scrolled(self) -> None:
        """Called when the view is at another place."""

    def follow(self) -> None:
        """Go to the end and stay there."""
        self.rows.following = True
        self.lay_out()

    def forget_layout(self) -> None:
        """Lay out again after many entries have changed."""
        self.rows.estimate_heights()
        self.lay_out()

    def lay_out(self) -> None:
        """Lay out the entries in and near the view."""
        size = self.scrollable_content_region.size
        if not size.width or not size.height or self._laying_out:
            return
        self._laying_out = True
        try:
            self.rows.lay_out(size.width - 1, size.height)
            set_virtual_size(self, Size(size.width, self.rows.height))
            self.scroll_y = self.scroll_target_y = (
                self.max_scroll_y if self.rows.following else self.rows.top_line()
            )
            self.vertical_scrollbar.draw()
            self.rows.keep_place(self.top)
        finally:
            self._laying_out = False
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited()
        self._request_colours()
        self.refresh()

    def toggle(self, entry: TranscriptEntry) -> None:
        """Fold or unfold an entry; the line at the top stays where it is."""
        entry.toggle()
        self.rows.following = False
        self.lay_out()
        self.rows.following = self.scroll_y >= self.max_scroll_y

    @property
    def top(self) -> int:
        """The line at the top of the view."""
        return round(self.scroll_y)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._laying_out and old_value != new_value:
            self.rows.following = new_value >= self.max_scroll_y
            self.rows.keep_place(self.top)
            self.scrolled()
            self.lay_out()

    def on_resize(self) -> None:
        self.lay_out()

    def scroll_page(self, direction: int) -> None:
        step = max(self.scrollable_content_region.height - 2, 1)
        self.scroll_to(y=self.scroll_y + direction * step, animate=False)

    # Colours of code, which take too long to wait for

    @property
    def colouring(self) -> bool:
        """Whether colours are being computed for code in view."""
        return self._colouring

    def _request_colours(self) -> None:
        height = self.scrollable_content_region.height
        plain = [
            (part, codes)
            for entry, part in self.rows.parts_in(self.top, height)
            if entry.complete and (codes := [code for code in part.codes if code.uncoloured])
        ]
        if plain and not self._colouring:
            self._colouring = True
            self._colour(plain)

    @work(thread=True, group="colours")
    def _colour(self, plain: Sequence[tuple[Part, Sequence[Code]]]) -> None:
        for _, codes in plain:
            for code in codes:
                code.colour()
        self.post_message(self.Coloured([part for part, _ in plain]))

    def on_laid_out_view_coloured(self, event: Coloured) -> None:
        event.stop()
        self._colouring = False
        for part in event.parts:
            part.forget()
        self.lay_out()
