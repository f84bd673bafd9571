"""The question before a tool runs. Only keys of the user answer it."""

import time
from collections.abc import Callable
from typing import cast

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import OptionList, Static

from qwen35_chat.controller import Controller
from qwen35_chat.screens.answers import AnswerList
from qwen35_chat.screens.modal import Modal
from qwen35_chat.tools.calling import Answer, CallQuestion, Question
from qwen35_chat.tools.shown import said_of, shown_arguments, shown_name
from qwen35_chat.widgets.key_hints import with_keys

ANSWERS: dict[Answer, str] = {
    "once": "Run it this once",
    "always": "Always run this tool",
    "no": "Not this time",
    "never": "Never run this tool",
}
ROUND_ANSWERS: dict[Answer, str] = {"once": "Go on", "no": "Stop"}
HINT = "Up, Down or a number marks · Enter chooses · Page Down scrolls · Esc stops"


class ToolQuestion(Modal[Answer | None]):
    """Shows a call in full. Its result is the answer; None stops the reply.

    Args:
        clock: seconds.
    """

    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-middle"), (32, "-high")]  # noqa: RUF012
    BINDINGS = [  # noqa: RUF012
        Binding("escape,ctrl+c", "leave", "Stop", priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
    ]

    def __init__(self, question: Question, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._question = question
        self._clock = clock

    def compose(self) -> ComposeResult:
        title, about, text, answers = _parts(self._question)
        with Vertical(id="question"):
            yield Static(title, classes="title", markup=False)
            if about:
                yield Static(about, classes="about", markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(text, markup=False)
            yield AnswerList(answers.items(), self._clock)
            yield Static(with_keys(HINT), classes="hint")

    def on_mount(self) -> None:
        # Nothing is marked at first, so that Enter alone chooses nothing.
        self.query_one(AnswerList).highlighted = None
        self.query_one(AnswerList).focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(cast(Answer, event.option.id))

    def action_page(self, direction: int) -> None:
        scroll = self.query_one(VerticalScroll)
        if direction < 0:
            scroll.scroll_page_up(animate=False)
        else:
            scroll.scroll_page_down(animate=False)

    def action_leave(self) -> None:
        self.dismiss(None)


def _parts(question: Question) -> tuple[str, str, str, dict[Answer, str]]:
    """Title, what is said of the tool, text and answers of a question."""
    if isinstance(question, CallQuestion):
        tool = question.tool
        title = f"Run {shown_name(tool.name)} of {shown_name(tool.server)}?"
        return title, said_of(tool), shown_arguments(question.call.arguments), ANSWERS
    text = f"The model has called tools {question.rounds} times in a row to answer you."
    return "Go on?", "", text, ROUND_ANSWERS


class QuestionAsker:
    """Covers a screen with the controller's question, once nothing else covers it.

    Args:
        clock: seconds.
    """

    def __init__(self, screen: Screen[None], controller: Controller, clock: Callable[[], float]):
        self._screen = screen
        self._controller = controller
        self._clock = clock
        self._asked: Question | None = None  # that is on the screen

    def show(self) -> None:
        """Ask what waits for an answer, unless it is asked already."""
        question, app = self._controller.question, self._screen.app
        if question is None or question is self._asked or app.screen is not self._screen:
            return
        self._asked = question
        app.push_screen(
            ToolQuestion(question, self._clock), lambda answer: self._answer(question, answer)
        )

    def _answer(self, question: Question, answer: Answer | None) -> None:
        self._asked = None
        if self._controller.question is not question:  # it was stopped meanwhile
            return
        if answer is None:
            self._controller.stop()
        else:
            self._controller.answer_tool(answer)
