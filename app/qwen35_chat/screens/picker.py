"""What covers the chat: a list to search and choose from, and a line to write."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, ClassVar, cast

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from qwen35_chat.commands import Scope, in_scope, keymap, keys_of, run_command
from qwen35_chat.disk_calls import Work
from qwen35_chat.keys import shown_keys
from qwen35_chat.screens.modal import Modal, Result
from qwen35_chat.screens.work import working_app
from qwen35_chat.textual_editing import LiteralInput
from qwen35_chat.textual_private import bindings_of
from qwen35_chat.widgets.key_hints import with_keys
from qwen35_chat.widgets.keys_in_order import KeysInOrder

NOTHING = Content("")
READING = "Reading …"
READING_SECONDS = 1.0  # from which it is shown
MOST_OF_SCREEN = 85  # percent of its height, as in app.tcss
FEWEST_ROWS = 3
ABOVE_ROWS = 4  # the title, the line to search in, and a margin below each


@dataclass(frozen=True, slots=True)
class Row:
    """One line to choose; a row without an id cannot be chosen, a heading for instance.

    Attributes:
        label: truncated if there is no room for it.
        right: at the right end of the line, in full.
        least: cells of the label that are never cut for `right`; `narrow` takes its place then.
    """

    id: str
    label: Content
    right: Content = NOTHING
    narrow: Content = NOTHING
    least: int = 0

    def fitted(self, width: int) -> Content:
        """The row in `width` cells."""
        if self.least > width - self.right.cell_length - 2 and self.right.plain:
            return Row(self.id, self.label, self.narrow).fitted(width)
        room = width - self.right.cell_length - (2 if self.right.plain else 0)
        label = self.label.truncate(max(room, 1), ellipsis=True)
        if not self.right.plain:
            return label
        return label + " " * max(width - label.cell_length - self.right.cell_length, 1) + self.right


Rows = Sequence[Row]


class Cover(Modal[Result]):
    """What covers a part of the chat, and is left by a click beside it, too."""

    def on_click(self, event: events.Click) -> None:
        if event.widget is self:
            self.action_leave()

    def action_leave(self) -> None:
        self.dismiss(None)


class WritingLine(KeysInOrder, LiteralInput):
    """A line to write in, with \\n for a new line. The cursor does not blink."""

    def __init__(self, value: str = "", *, placeholder: str = ""):
        super().__init__(value.replace("\n", "\\n"), placeholder=placeholder, compact=True)
        self.cursor_blink = False

    @property
    def text(self) -> str:
        """What is written, with its new lines."""
        return self.value.replace("\\n", "\n")


class RowList(OptionList):
    """Rows, which begin at the first one wherever the marked one is seen then."""

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)

    def on_resize(self) -> None:
        if self.highlighted is not None and self.highlighted < self.size.height:
            self.scroll_home(animate=False)


class Picker(Cover[str | None]):
    """Words at the top narrow down the rows below. Its result is the id of the chosen row.

    Args:
        title: names the list.
        rows: makes the rows for the words at the top; a coroutine function if that may wait for
            the disk.
        words: there from the start.
        hint: the keys, at the bottom.
        remapped: keys that the settings give to commands.

    Attributes:
        SCOPE: of the commands that it has; None for none.
        FULL_HEIGHT: whether it keeps its height when it has few rows.
        message: the line below the rows.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "leave", "Back", priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("down", "move(1)", show=False, priority=True),
        Binding("pageup", "move(-10)", show=False, priority=True),
        Binding("pagedown", "move(10)", show=False, priority=True),
    ]
    SCOPE: ClassVar[Scope | None] = None
    FULL_HEIGHT: ClassVar[bool] = False

    def __init__(
        self,
        title: str,
        rows: Callable[[str], Rows | Coroutine[Any, Any, Rows]],
        *,
        words: str = "",
        placeholder: str = "Search",
        hint: str = "Enter opens, Esc goes back",
        remapped: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self._remapped = remapped or {}
        self._title = title
        self._rows = rows
        self._words = words
        self._placeholder = placeholder
        self._hint = hint
        self.message = ""
        self._making = True  # there are no rows yet, or those that are shown belong to other words
        self._waiting: list[Callable[[], object]] = []  # what keys do with the rows then

    def compose(self) -> ComposeResult:
        message = Static("", classes="message", markup=False)
        message.display = False
        with Vertical(id="picker"):
            yield Static(self._title, classes="title", markup=False)
            yield WritingLine(self._words, placeholder=self._placeholder)
            yield RowList()
            yield message
            yield Static("", classes="hint", markup=False)

    def on_mount(self) -> None:
        if self.SCOPE:
            for key, command in keymap(self.SCOPE, self._remapped).items():
                action = f"command('{command.name}')"
                bindings_of(self).bind(key, action, command.title, priority=True)
        self.query_one(Input).focus()

    def _hints(self, width: int) -> str:
        """The keys that matter, none of them broken across lines; the first in a low terminal."""
        hints = self._hint.split(", ")
        for command in in_scope(self.SCOPE) if self.SCOPE else ():
            if keys := shown_keys(keys_of(command, self._remapped)):
                hints.append(f"{keys} {command.title.lower()}")
        lines = [""]
        for hint in hints:
            joined = f"{lines[-1]} · {hint}" if lines[-1] else hint
            if cell_len(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(hint)
        return "\n".join([line for line in lines if line][: max(self.size.height // 6, 1)])

    def reload(self, keep: str | None = None) -> None:
        """Make the rows again, and mark the row `keep` or else the first."""
        if self.left:
            return
        words = self.query_one(Input).value
        self._making = True
        if iscoroutinefunction(self._rows):
            self.run_worker(partial(self._make_and_show, words, keep), group="rows", exclusive=True)
        else:
            self._show_rows(cast(Rows, self._rows(words)), keep)

    async def _make_and_show(self, words: str, keep: str | None) -> None:
        note = self.set_timer(READING_SECONDS, lambda: self.show_message(READING))
        try:
            rows = await cast(Coroutine[Any, Any, Rows], self._rows(words))
        finally:
            note.stop()
        if self.message == READING:
            self.show_message("")
        self._show_rows(rows, keep)

    def _show_rows(self, rows: Rows, keep: str | None) -> None:
        if self.left:
            return
        options = self.query_one(OptionList)
        options.clear_options()
        # One line each, and as wide as a scrollbar leaves.
        width = max(options.content_region.width - 1, 20)
        options.add_options(
            Option(row.fitted(width), id=row.id or None, disabled=not row.id) for row in rows
        )
        ids = [row.id for row in rows]
        if keep in ids:
            options.highlighted = ids.index(keep)
        else:
            options.highlighted = next((n for n, name in enumerate(ids) if name), None)
        self._fit_height()
        self._making = False
        while self._waiting and not self._making:
            self._waiting.pop(0)()

    def _fit_height(self) -> None:
        """Be as high as the rows need, and no higher than most of the screen."""
        if self.FULL_HEIGHT:
            return
        picker, hint = self.query_one("#picker"), self.query_one(".hint")
        width = max(hint.content_region.width, 20)
        below = [self._hints(width), self.message]
        texts = sum(len(Content(text).wrap(width)) + 1 for text in below if text)
        rows = max(self.query_one(OptionList).option_count, FEWEST_ROWS)
        limit = self.size.height * MOST_OF_SCREEN // 100
        picker.styles.max_height = min(picker.gutter.height + ABOVE_ROWS + rows + texts, limit)

    def _with_rows(self, act: Callable[[], object]) -> None:
        """Do what a key does with the rows, once they are those of the words."""
        if self._making:
            self._waiting.append(act)
        elif not self.left:
            act()

    @property
    def marked(self) -> str | None:
        options = self.query_one(OptionList)
        if options.highlighted is None or not options.option_count:
            return None
        return options.get_option_at_index(options.highlighted).id

    def show_message(self, text: str, *, error: bool = False) -> None:
        """Show one line to the user, here or, once this is left, in the chat."""
        if not self.is_attached:
            working_app(self).show_message(text, error=error)
            return
        self.message = text
        line = self.query_one(".message", Static)
        line.update(text)
        line.set_class(error, "error")
        line.display = bool(text)
        self._fit_height()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.reload()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._with_rows(self._choose)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id is not None:
            self.chosen(event.option.id)

    def _choose(self) -> None:
        self._waiting.clear()  # keys behind Enter meant rows that are left now
        if self.marked is not None:
            self.chosen(self.marked)

    def chosen(self, row: str) -> None:
        self.dismiss(row)

    def on_resize(self) -> None:
        self.call_after_refresh(self._resized)

    def _resized(self) -> None:
        if self.left:
            return
        hint = self.query_one(".hint", Static)
        hint.update(with_keys(self._hints(max(hint.content_region.width, 20))))
        self.reload(self.marked)

    def action_move(self, step: int) -> None:
        self._with_rows(lambda: self._move(step))

    def _move(self, step: int) -> None:
        options = self.query_one(OptionList)
        for _ in range(abs(step)):
            if step < 0:
                options.action_cursor_up()
            else:
                options.action_cursor_down()

    def action_command(self, name: str) -> None:
        self._with_rows(lambda: run_command(name, self))

    def perform(self, work: Work) -> None:
        """Do what waits for the disk, apart from the keys; an error is one line."""
        working_app(self).work.add(work, self._show_error)

    def _show_error(self, line: str) -> None:
        self.show_message(line, error=True)


class Ask(Cover[str | None]):
    """A question, answered by one line of text, which is its result."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "leave", "Back", priority=True),
    ]

    def __init__(self, title: str, value: str = "", hint: str = "Enter keeps it, Esc goes back"):
        super().__init__()
        self._title = title
        self._value = value
        self._hint = hint

    def compose(self) -> ComposeResult:
        with Vertical(id="ask"):
            yield Static(self._title, classes="title", markup=False)
            yield WritingLine(self._value)
            yield Static(with_keys(self._hint), classes="hint")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(self.query_one(WritingLine).text)
