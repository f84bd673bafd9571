"""Where the user writes."""

from textual import events
from textual.message import Message
from textual.widgets import TextArea

# Terminals that do not tell Shift+Enter from Enter still send Ctrl+J.
NEW_LINE_KEYS = ("shift+enter", "ctrl+j", "alt+enter")


class Composer(TextArea):
    """A text area that grows with its text: Enter sends, Shift+Enter begins a new line."""

    class Sent(Message):
        """The user asks to send `text`. It stays in the composer until that is done."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(
            placeholder="Write a message",
            soft_wrap=True,
            tab_behavior="focus",
            highlight_cursor_line=False,
        )
        self.cursor_blink = False

    async def _on_key(self, event: events.Key) -> None:
        # Not as bindings: those run later than the characters that are typed after them.
        # A paste arrives as a paste event, so an Enter here was typed.
        if event.key != "enter" and event.key not in NEW_LINE_KEYS:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        if event.key in NEW_LINE_KEYS:
            self.insert("\n")
        elif self.text.strip():
            self.post_message(self.Sent(self.text))

    def put_back(self, text: str) -> None:
        """Offer a text again, before whatever was typed since."""
        self.text = f"{text}\n{self.text}" if self.text.strip() else text
        self.move_cursor(self.document.end)
