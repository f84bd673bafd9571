"""The output of a command of the shell, before it goes into a message."""

import time
from collections.abc import Callable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import OptionList, Static

from qwen35_chat.screens.answers import AnswerList
from qwen35_chat.screens.modal import Modal
from qwen35_chat.shell_command import Output, ShellRun
from qwen35_chat.widgets.long_text import LongText
from qwen35_mlx.terminal import visible_line

LOOKS_PER_SECOND = 10
LINES_WHILE_RUNNING = 20
RUNNING = "Running, {seconds:.0f} s · Esc stops it"
HINT = "Page Down scrolls · Esc drops it"


class ShellScreen(Modal[Output | None]):
    """Runs a command and shows its output. Its result is the output if the user wants to add it.

    Args:
        clock: seconds.
    """

    VERTICAL_BREAKPOINTS = [(0, "-low"), (14, "-middle"), (26, "-high")]  # noqa: RUF012
    BINDINGS = [  # noqa: RUF012
        Binding("escape,ctrl+c", "leave", "Stop", priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
    ]

    def __init__(self, command: str, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._began = clock()
        self._run_of_command = ShellRun(command)
        self._ended = False
        self._state = Static("", classes="state", markup=False)
        self._text = LongText()
        self._hint = Static("", classes="hint", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(id="question"):
            command = visible_line(self._run_of_command.command)
            yield Static(f"$ {command}", classes="title", markup=False)
            yield self._state
            yield self._text
            yield self._hint

    def on_mount(self) -> None:
        self.set_interval(1 / LOOKS_PER_SECOND, self._look)
        self._look()

    def on_unmount(self) -> None:
        self._run_of_command.stop()

    def _look(self) -> None:
        """Show what has been written, and the answers once it has ended."""
        if self._ended:
            return
        output = self._run_of_command.output
        if output is None:
            lines = self._run_of_command.text.split("\n")[-LINES_WHILE_RUNNING:]
            self._text.show("\n".join(lines))
            self._state.update(RUNNING.format(seconds=self._clock() - self._began))
            return
        self._ended = True
        self._text.show(output.text or "(no output)")
        self._state.update(output.end.capitalize())
        self._hint.update(HINT)
        answers = AnswerList([("add", "Add it to the message"), ("drop", "Drop it")], self._clock)
        self.query_one("#question").mount(answers, before=self._hint)
        answers.highlighted = 0
        answers.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._run_of_command.output if event.option.id == "add" else None)

    def action_page(self, direction: int) -> None:
        scroll = self.query_one(LongText)
        if direction < 0:
            scroll.scroll_page_up(animate=False)
        else:
            scroll.scroll_page_down(animate=False)

    def action_leave(self) -> None:
        if self._ended:
            self.dismiss(None)
        else:
            self._run_of_command.stop()
