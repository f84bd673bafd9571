"""A page of text that covers the chat."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from qwen35_chat.screens.picker import Cover
from qwen35_chat.widgets.key_hints import with_keys

LOWEST_HIGH = 16  # rows, from which there are margins
NARROWEST = 8  # cells of text


class Page(Cover[None]):
    """A text to read and scroll.

    Args:
        text: makes it for a width in cells.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c,f1,q,enter", "leave", "Back", priority=True),
    ]

    # A low terminal has no room to spare around the text.
    VERTICAL_BREAKPOINTS = [(0, "-low"), (LOWEST_HIGH, "-high")]  # noqa: RUF012

    def __init__(self, title: str, text: Callable[[int], Content]):
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="page"):
            yield Static(self._title, classes="title", markup=False)
            with VerticalScroll():
                yield Static("", id="text", markup=False)
            keys = "Esc goes back · Up, Down, Page Up, Page Down scroll"
            yield Static(with_keys(keys), classes="hint")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._resized)

    def _resized(self) -> None:
        text = self.query_one("#text", Static)
        text.update(self._text(max(text.content_region.width, NARROWEST)))
