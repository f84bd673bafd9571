"""What an empty conversation shows: a wordmark, the model, what to begin with, and a tip."""

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from qwen35_chat.screens.picker import Row

NAME = (
    "▄▀▀█ █   █ ▄▀▀▄ █▀▀▄ ",
    "█  █ █ █ █ █▀▀▀ █  █ ",
    " ▀▀█  ▀ ▀   ▀▀▀ ▀  ▀ ",
    "   ▀                 ",
)
NUMBER = (
    " ▀▀▀▄   █▀▀▀",
    "  ▀▀▄   ▀▀▀▄",
    " ▀▀▀  ▀ ▀▀▀ ",
    "            ",
)
WORDMARK_CELLS = len(NAME[0] + NUMBER[0])


class Face(Widget):
    """The wordmark, and lines about the model below it.

    Attributes:
        wordmark: whether there is room for it; else the program's name stands in its place.
    """

    def __init__(self) -> None:
        super().__init__(id="face")
        self.wordmark = True
        self._lines: Sequence[Content] = ()

    def show(self, lines: Sequence[Content], *, wordmark: bool) -> None:
        """Show these lines."""
        if (list(lines), wordmark) != (list(self._lines), self.wordmark):
            self._lines, self.wordmark = lines, wordmark
            self.refresh(layout=True)

    def render(self) -> RenderResult:
        if self.wordmark:
            head = [
                Content.assemble((name, "$primary"), (number, "$accent"))
                for name, number in zip(NAME, NUMBER, strict=True)
            ]
        else:
            head = [Content.assemble(("qwen", "bold $text-primary"), ("3.5", "bold $text-accent"))]
        return Content("\n").join([*head, *self._lines])


class Starts(OptionList):
    """Messages to begin with and conversations to go on with, to click or to choose by keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,tab", "leave", "Back", show=False),
    ]

    class Chosen(Message):
        """One was chosen. `message` is a text to send, or else `conversation` is one to open."""

        def __init__(self, message: str = "", conversation: int | None = None):
            super().__init__()
            self.message = message
            self.conversation = conversation

    class Left(Message):
        """The user goes back to the composer."""

    def __init__(self) -> None:
        super().__init__(id="starts", markup=False, compact=True)
        self._rows: Sequence[Row] = ()

    def show(self, rows: Sequence[Row]) -> None:
        """Show rows; the id of one is m and a message, or c and a conversation's number."""
        if list(rows) != list(self._rows):
            self._rows = rows
            self._fill()

    def on_resize(self, event: events.Resize) -> None:
        self._fill()

    def _fill(self) -> None:
        width = max(self.content_region.width, 20)
        marked = self.highlighted
        self.clear_options()
        self.add_options(
            Option(row.fitted(width), id=row.id or None, disabled=not row.id) for row in self._rows
        )
        self.highlighted = marked if self.has_focus else None

    def on_focus(self) -> None:
        if self.highlighted is None:
            self.action_first()

    def on_blur(self) -> None:
        self.highlighted = None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        name = event.option.id or ""
        if name.startswith("m"):
            self.post_message(self.Chosen(message=name[1:]))
        elif name:
            self.post_message(self.Chosen(conversation=int(name[1:])))

    def action_leave(self) -> None:
        self.post_message(self.Left())
