"""The answers to a question that covers the chat."""

from collections.abc import Callable, Iterable

from textual import events
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

# Keys that were pressed for something else, while the question was appearing, choose nothing.
ARMED_SECONDS = 0.6


class AnswerList(OptionList):
    """The answers by their ids, numbered from 1.

    A number marks its answer. Enter chooses the marked one, and only some time after the answers
    have appeared: a key alone, meant for the composer, must not answer.

    Args:
        answers: the id and the text of each.
        clock: seconds.
    """

    def __init__(self, answers: Iterable[tuple[str, str]], clock: Callable[[], float]):
        options = [
            Option(Content.assemble((f"{n} ", "dim"), text), id=answer)
            for n, (answer, text) in enumerate(answers, 1)
        ]
        super().__init__(*options, markup=False, compact=True)
        self._clock = clock
        self._opened = clock()

    def on_key(self, event: events.Key) -> None:
        if event.key.isdecimal() and 1 <= int(event.key) <= self.option_count:
            event.stop()
            self.highlighted = int(event.key) - 1

    def action_select(self) -> None:
        if self._clock() - self._opened >= ARMED_SECONDS:
            super().action_select()
