"""Where the user writes."""

from collections.abc import Callable, Mapping

from textual import events
from textual.message import Message
from textual.widgets.text_area import Selection

from qwen35_chat.chips import LONG_TEXT, LONG_TEXT_CHARACTERS, Chips
from qwen35_chat.typed_signs import with_ascii_sign
from qwen35_chat.vim.edits import Step
from qwen35_chat.vim.keys import Vim
from qwen35_chat.widgets.completions import Completions
from qwen35_chat.widgets.hand_typed import HandTypedTextArea

PLACEHOLDER = "Write a message, / for commands, @ for a file"


class Composer(HandTypedTextArea):
    """A text area that grows with its text, with completion and history.

    Keys that act on what is typed are handled here and not as bindings, which Textual runs after
    the characters that are typed next.

    Args:
        complete: brings the completions up to date with the text before the cursor.
        send: sends the text. It is called with the key, before what is typed next.
        step_history: goes to the message before (-1) or after (1) in the history.

    Attributes:
        chips: the long pastes in the text.
        browsing: the text comes from the history, so Up and Down go on there.
        typed_keys: each key of a command that acts on what is typed, and the command's name.
        vim: the keys of vim; None without them.
    """

    class CommandKey(Message):
        """Run a command whose key the composer handles."""

        def __init__(self, name: str):
            super().__init__()
            self.name = name

    class ModeChanged(Message):
        """Vim's mode is another, or the keys of a command that is not complete."""

    def __init__(
        self,
        completions: Completions,
        *,
        complete: Callable[[], None],
        send: Callable[[], None],
        step_history: Callable[[int], None],
    ) -> None:
        super().__init__(
            placeholder=PLACEHOLDER,
            soft_wrap=True,
            tab_behavior="focus",
            highlight_cursor_line=False,
        )
        self.cursor_blink = False
        self.chips = Chips()
        self.browsing = False
        self.typed_keys: Mapping[str, str] = {}
        self.vim: Vim | None = None
        self._vim_selection = self.selection
        self._completions = completions
        self._complete = complete
        self._send = send
        self._step_history = step_history

    def on_key(self, event: events.Key) -> None:
        if self._takes(event):
            event.stop()
            event.prevent_default()
        elif event.key == "enter" or event.is_printable:
            self.browsing = False

    def _takes(self, event: events.Key) -> bool:
        """Handle a key that means more here than in a text area; whether it was one."""
        key = self._as_arrow(event)
        if self._completing(key):
            return True
        if key == event.key and self._vim_takes(event):
            return True
        if self._empty_line(key):
            return True
        if key in ("up", "down") and self.browsing and self._at_edge(key):
            self._step_history(-1 if key == "up" else 1)
            return True
        match self.typed_keys.get(key):
            # In a text, the keys for versions move the cursor.
            case None | "older" | "newer":
                return False
            case "newline":
                self.insert("\n")
            case "send":
                self.leave_vim_mode()
                self._send()
            case name:
                self.post_message(self.CommandKey(name))
        return True

    # The keys of vim

    def use_vim(self, on: bool) -> None:
        """Switch the keys of vim on or off. It begins in insert mode."""
        if on != (self.vim is not None):
            self.vim = Vim() if on else None
            self.post_message(self.ModeChanged())

    @property
    def mode(self) -> str:
        """Vim's mode, for people; "" without vim."""
        return "" if self.vim is None else self.vim.label

    def leave_vim_mode(self) -> None:
        """Go to insert mode."""
        if self.vim is not None and self.vim.mode != "insert":
            self.vim.leave("insert")
            self.post_message(self.ModeChanged())

    def _as_arrow(self, event: events.Key) -> str:
        """The key; in normal mode, Up for k and Down for j where these go through the history."""
        key, vim = event.key, self.vim
        if vim is None or vim.mode != "normal" or vim.waits or key not in ("j", "k"):
            return key
        arrow = "up" if key == "k" else "down"
        return arrow if not self.text or (self.browsing and self._at_edge(arrow)) else key

    def _vim_takes(self, event: events.Key) -> bool:
        """Let vim handle a key; whether it did."""
        vim = self.vim
        if vim is None:
            return False
        if vim.selects and self.selection != self._vim_selection:  # by the mouse, for instance
            vim.leave("normal")
        before = vim.label
        sign = event.character if event.is_printable and event.character else event.key
        step = vim.press(sign, self.text, len(self.before_cursor))
        if step is not None:
            self._do(step)
        if vim.label != before:
            self.post_message(self.ModeChanged())
        return step is not None

    def _do(self, step: Step) -> None:
        """Do what a key of vim does. Each is undone by itself."""
        self.history.checkpoint()
        if step.undo:
            for _ in range(abs(step.undo)):
                self.undo() if step.undo > 0 else self.redo()
        if (edit := step.edit) is not None:
            start, end = self._place(edit.start), self._place(edit.end)
            self.replace(edit.text, start, end, maintain_selection_offset=False)
        if step.undo or step.edit:
            self.browsing = False
        if step.selection is not None:
            self.selection = Selection(*map(self._place, step.selection))
        elif step.cursor is not None:
            self.move_cursor(self._place(step.cursor))
        self._vim_selection = self.selection

    def _place(self, character: int) -> tuple[int, int]:
        """The row and the column of a character of the text."""
        before = self.text[:character]
        return before.count("\n"), len(before) - before.rfind("\n") - 1

    def _completing(self, key: str) -> bool:
        """Let the list of completions handle a key; whether it did."""
        completions = self._completions
        if completions.choices and completions.before != self.before_cursor:
            # Keys may come faster than the messages about what they have changed.
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
        elif key == "tab" or (key == "enter" and not self._is_complete(choice.insert)):
            self.complete(choice.insert, choice.replaces)
        else:
            return False
        return True

    def _is_complete(self, insert: str) -> bool:
        return with_ascii_sign(self.text.strip()) == insert.strip()

    def complete(self, insert: str, replaces: int) -> None:
        """Put `insert` in place of the characters before the cursor."""
        row, column = self.cursor_location
        self.replace(insert, (row, column - replaces), (row, column))
        self.move_cursor((row, column - replaces + len(insert)))

    def _empty_line(self, key: str) -> bool:
        """Handle a key that acts on the conversation while nothing is typed; whether it did."""
        if self.text:
            return False
        if key == "up":
            self._step_history(-1)
        elif key == "ctrl+d":  # the end of the input, as in a shell
            self.post_message(self.CommandKey("quit"))
        elif (name := self.typed_keys.get(key)) in ("older", "newer"):
            self.post_message(self.CommandKey(name))
        else:
            return False
        return True

    def _at_edge(self, key: str) -> bool:
        return self.cursor_at_first_line if key == "up" else self.cursor_at_last_line

    @property
    def before_cursor(self) -> str:
        """The text from its start to the cursor."""
        return self.get_text_range((0, 0), self.cursor_location)

    @property
    def whole(self) -> str:
        """The text with its pastes in full."""
        return self.chips.expanded(self.text)

    def stored(self, text: str) -> str:
        """A text that was in here, with its chips, as `put_draft` takes it."""
        return self.chips.stored(text)

    def put_draft(self, draft: str) -> None:
        """Put a draft before what is typed, its pastes as chips again."""
        self.put_back(self.chips.restored(draft))

    def set_text(self, text: str) -> None:
        """Replace the text; a very long one is shown as a chip."""
        self.text = self.chips.chip(text, LONG_TEXT, LONG_TEXT_CHARACTERS) or text
        self.move_cursor(self.document.end)

    def suggest(self, text: str) -> None:
        """Show, while nothing is typed, what Enter sends; "" for the usual hint."""
        self.placeholder = f"{text}  (Enter sends this)" if text else PLACEHOLDER

    def put_back(self, text: str) -> None:
        """Put a text before what is typed, its long pastes as chips again."""
        text = self.chips.collapsed(text)
        self.set_text(f"{text}\n{self.text}" if self.text.strip() else text)

    def put_output(self, text: str) -> None:
        """Put the output of a command, as a chip, in place of the command."""
        self.set_text(f"{self.chips.output(text)}\n")

    def on_paste(self, event: events.Paste) -> None:
        """Insert pasted text, or its chip if it is long."""
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        event.stop()
        event.prevent_default()
        self.browsing = False
        start, end = self.selection
        shown = self.chips.chip(text) or text
        result = self.replace(shown, start, end, maintain_selection_offset=False)
        self.move_cursor(result.end_location)
        self.focus()
