"""The conversation on the screen."""

from collections.abc import Callable

from textual.containers import VerticalScroll
from textual.widgets import Static

from qwen35_chat.plain import visible
from qwen35_chat.widgets.reply import Reply


class Transcript(VerticalScroll, can_focus=False):
    """Messages, oldest first. Follows the end unless the user has scrolled up."""

    def on_mount(self) -> None:
        self.anchor()

    async def add_text(self, text: str, classes: str) -> Static:
        """Text of a user or of the app, taken literally."""
        line = Static(visible(text), markup=False, classes=classes)
        await self.mount(line)
        return line

    async def add_turn(self, message: str, clock: Callable[[], float]) -> tuple[Static, Reply]:
        """A message and the place for its reply; the end comes into view."""
        line, reply = Static(visible(message), markup=False, classes="message"), Reply(clock)
        await self.mount(line, reply)
        self.follow()
        return line, reply

    def follow(self) -> None:
        """Go to the end and stay there."""
        self.anchor()
