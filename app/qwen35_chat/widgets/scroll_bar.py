"""A vertical scrollbar for content that grows many times a second."""

from math import ceil
from typing import Any

from textual.reactive import Reactive
from textual.scrollbar import ScrollBar

STEPS = 8  # of a cell: the ends of the thumb are drawn as parts of a block


class SteadyScrollBar(ScrollBar):
    """Drawn again only when its thumb has moved: drawing it takes longer than a screen of text."""

    window_virtual_size: Reactive[int] = Reactive(100, repaint=False)
    window_size: Reactive[int] = Reactive(0, repaint=False)
    position: Reactive[float] = Reactive(0, repaint=False)

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._drawn: tuple[int, int] | None = None

    @property
    def thumb(self) -> tuple[int, int] | None:
        """The start and the end of the thumb, in `STEPS` of a cell; None if all is in view."""
        cells, window, whole = self.size.height, self.window_size, self.window_virtual_size
        if not cells or not 0 < window < whole or cells == whole:
            return None
        length = max(1, window / (whole / cells))
        start = int((cells - length) * (self.position / (whole - window)) * STEPS)
        return start, start + ceil(length * STEPS)

    def watch_position(self) -> None:
        self.draw()

    def watch_window_size(self) -> None:
        self.draw()

    def watch_window_virtual_size(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Draw it if its thumb has moved."""
        if (thumb := self.thumb) != self._drawn:
            self._drawn = thumb
            self.refresh()
