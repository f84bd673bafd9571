"""A text of any length that scrolls. Only the lines in view are drawn."""

from rich.segment import Segment
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from qwen35_chat.drawing.line_breaks import broken
from qwen35_mlx.terminal import visible


class LongText(ScrollView, can_focus=False):
    """A text without markup, cut into lines of its width. `Static` would lay out all of it."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._lines = [""]
        self._wrapped: list[str] = []
        self._width = 0  # that the lines were cut to
        self.show(text)

    def show(self, text: str) -> None:
        """Show another text, from its beginning."""
        self._lines = visible(text).expandtabs().split("\n")
        self._width = 0
        self.refresh(layout=True)
        self._fit()

    def _cut(self, width: int) -> list[str]:
        """The text in lines of at most this many cells."""
        if width != self._width:
            self._width = width
            self._wrapped = [part for line in self._lines for part in broken(line, width)]
        return self._wrapped

    def _fit(self) -> None:
        if (width := self.scrollable_content_region.width) > 0:
            self.virtual_size = Size(width, len(self._cut(width)))

    def on_resize(self) -> None:
        self._fit()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._cut(width)) if width > 0 else 1

    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        lines = self._cut(width) if width > 0 else []
        text = lines[at] if at < len(lines) else ""
        return Strip([Segment(text, self.rich_style)]).adjust_cell_length(width, self.rich_style)
