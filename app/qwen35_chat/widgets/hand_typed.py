"""A text area with a note of whether its text was typed."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets.text_area import Edit, EditResult

from qwen35_chat.textual_editing import LiteralTextArea
from qwen35_chat.widgets.keys_in_order import KeysInOrder


class HandTypedTextArea(KeysInOrder, LiteralTextArea):
    """A text area.

    Attributes:
        typed: all of its text was typed, key by key, since it was empty. Text that was pasted,
            completed, brought back or put there by the program is not.
    """

    # As in a shell: Textual's own key for it, Ctrl+Z, goes back to the shell.
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+underscore", "undo", "Undo", show=False)]

    typed = True
    _character = ""  # of the key whose edit comes next

    def on_key(self, event: events.Key) -> None:
        self._character = (event.character or "") if event.is_printable else ""

    def edit(self, edit: Edit) -> EditResult:
        by_key = not edit.text or edit.text == self._character
        self._character = ""
        if not self.text:
            self.typed = True
        self.typed = self.typed and by_key
        return super().edit(edit)

    def load_text(self, text: str) -> None:
        self.typed = False
        super().load_text(text)

    def undo(self) -> None:
        self.typed = False
        super().undo()

    def redo(self) -> None:
        self.typed = False
        super().redo()
