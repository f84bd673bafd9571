"""The answers to a question that covers the chat."""

from collections.abc import Callable, Iterable

from textual.widgets import OptionList
from textual.widgets.option_list import Option

# Keys that were pressed for something else, while the question was appearing, choose nothing.
ARMED_SECONDS = 0.6


class AnswerList(OptionList):
    """The answers by their ids, which Enter chooses only some time after they have appeared.

    Args:
        answers: the id and the text of each.
        clock: seconds.
    """

    def __init__(self, answers: Iterable[tuple[str, str]], clock: Callable[[], float]):
        options = [Option(text, id=answer) for answer, text in answers]
        super().__init__(*options, markup=False, compact=True)
        self._clock = clock
        self._opened = clock()

    def action_select(self) -> None:
        if self._clock() - self._opened >= ARMED_SECONDS:
            super().action_select()
