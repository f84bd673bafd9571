"""A question with two answers that covers the chat. Only keys and clicks of the user answer it."""

import time
from collections.abc import Callable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import OptionList, Static

from qwen35_chat.question import Question
from qwen35_chat.screens.answers import AnswerList
from qwen35_chat.screens.modal import Modal
from qwen35_chat.widgets.key_hints import with_keys
from qwen35_chat.widgets.long_text import LongText

HINT = "Up, Down or a number marks · Enter chooses · Page Down scrolls · Esc goes back"


class QuestionScreen(Modal[bool]):
    """Its result is whether the answer was yes.

    Args:
        clock: seconds.
    """

    VERTICAL_BREAKPOINTS = [(0, "-low"), (14, "-middle"), (26, "-high")]  # noqa: RUF012
    BINDINGS = [  # noqa: RUF012
        Binding("escape,ctrl+c", "leave", "Back", priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
    ]

    def __init__(self, question: Question, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._question = question
        self._clock = clock

    def compose(self) -> ComposeResult:
        question = self._question
        with Vertical(id="question"):
            yield Static(question.title, classes="title", markup=False)
            yield Static(question.summary, classes="summary", markup=False)
            yield LongText(question.text)
            yield AnswerList([("yes", question.yes), ("no", question.no)], self._clock)
            yield Static(with_keys(HINT), classes="hint")

    def on_mount(self) -> None:
        answers = self.query_one(AnswerList)
        answers.highlighted = 0
        answers.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option.id == "yes")

    def action_page(self, direction: int) -> None:
        scroll = self.query_one(LongText)
        if direction < 0:
            scroll.scroll_page_up(animate=False)
        else:
            scroll.scroll_page_down(animate=False)

    def action_leave(self) -> None:
        self.dismiss(False)
