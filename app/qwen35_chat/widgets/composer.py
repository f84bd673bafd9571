"""Where the user writes."""

from collections.abc import Callable

from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea

from qwen35_chat.attachments import Chips
from qwen35_chat.plain import one_cell
from qwen35_chat.widgets.completions import Completions


class Composer(TextArea):
    """A text area that grows with its text, with completion and history.

    Args:
        complete: brings the completions up to what stands before the cursor.

    Keys that belong to what is typed are handled here and not as bindings: those run later than
    the characters that are typed after them.

    Attributes:
        chips: the long pastes in the text.
        sends, newlines: the keys that do so.
    """

    class Sent(Message):
        """The user asks to send the text, which stays in the composer until that is done."""

    class Step(Message):
        """The user asks for the message before (-1) or after (1) in the history."""

        def __init__(self, direction: int):
            super().__init__()
            self.direction = direction

    class Command(Message):
        """A key of the composer that stands for a command."""

        def __init__(self, name: str):
            super().__init__()
            self.name = name

    def __init__(self, completions: Completions, complete: Callable[[], None]) -> None:
        super().__init__(
            placeholder="Write a message, / for commands, @ for a file",
            soft_wrap=True,
            tab_behavior="focus",
            highlight_cursor_line=False,
        )
        self.cursor_blink = False
        self.chips = Chips()
        self.browsing = False
        # Keys of commands that act on what is typed; another table may remap them.
        self.typed_keys: dict[str, str] = {}
        self._completions = completions
        self._complete = complete
        self._styled = False

    def get_line(self, line_index: int) -> Text:
        """A line as it is drawn: the text itself may hold anything."""
        return Text(one_cell(self.document.get_line(line_index)), end="", no_wrap=True)

    async def _on_key(self, event: events.Key) -> None:
        if self._completing(event.key) or self._empty_line(event.key):
            pass
        elif event.key in ("up", "down") and self.browsing and self._at_edge(event.key):
            self.post_message(self.Step(-1 if event.key == "up" else 1))
        elif (name := self.typed_keys.get(event.key)) is not None:
            if name == "newline":
                self.insert("\n")
            elif name == "send":
                self.post_message(self.Sent())
            elif name in ("older", "newer"):
                # Only in an empty line, which is dealt with above: else it moves the cursor.
                await super()._on_key(event)
                return
            else:
                self.post_message(self.Command(name))
        else:
            if event.key == "enter" or event.is_printable:
                self.browsing = False
            if event.key == "enter":
                event.prevent_default()
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()

    def _completing(self, key: str) -> bool:
        """Whether the list of completions took the key."""
        completions = self._completions
        if completions.choices and completions.about != self.before_cursor:
            # Keys may come faster than the screen hears of what they have changed.
            self._complete()
        choice = completions.chosen
        if choice is None:
            return False
        if key == "up":
            completions.action_cursor_up()
        elif key == "down":
            completions.action_cursor_down()
        elif key == "escape":
            completions.show([])
        elif key == "tab" or (key == "enter" and not self._complete_already(choice.insert)):
            self.complete(choice.insert, choice.replaces)
        else:
            return False
        return True

    def _complete_already(self, insert: str) -> bool:
        return self.text.strip() == insert.strip()

    def complete(self, insert: str, replaces: int) -> None:
        """Put `insert` in place of the characters before the cursor."""
        row, column = self.cursor_location
        self.replace(insert, (row, column - replaces), (row, column))
        self.move_cursor((row, column - replaces + len(insert)))

    def _empty_line(self, key: str) -> bool:
        if self.text:
            return False
        if key == "up":
            self.post_message(self.Step(-1))
        elif (name := self.typed_keys.get(key)) in ("older", "newer"):
            self.post_message(self.Command(name))
        else:
            return False
        return True

    def _at_edge(self, key: str) -> bool:
        return self.cursor_at_first_line if key == "up" else self.cursor_at_last_line

    def notify_style_update(self) -> None:
        self._styled = False
        super().notify_style_update()

    def render_lines(self, crop: Region) -> list[Strip]:
        """As a text area does, which looks up all of its colours each time, also for a frame in
        which only what is above it has changed."""
        if self._styled:
            return super(TextArea, self).render_lines(crop)
        self._styled = True
        return super().render_lines(crop)

    @property
    def before_cursor(self) -> str:
        """The text from its start to the cursor."""
        return self.get_text_range((0, 0), self.cursor_location)

    @property
    def whole(self) -> str:
        """The text with its pastes in full."""
        return self.chips.expanded(self.text)

    def set_text(self, text: str) -> None:
        self.text = text
        self.move_cursor(self.document.end)

    def put_back(self, text: str) -> None:
        """Offer a text again, before whatever was typed since."""
        self.set_text(f"{text}\n{self.text}" if self.text.strip() else text)

    async def _on_paste(self, event: events.Paste) -> None:
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        event.stop()
        event.prevent_default()
        self.browsing = False
        shown = self.chips.chip(text) or text
        if result := self._replace_via_keyboard(shown, *self.selection):
            self.move_cursor(result.end_location)
            self.focus()
