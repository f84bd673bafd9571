"""Where a reply ends before the model ends it."""

from collections.abc import Sequence
from copy import copy

from qwen35_mlx.text.reply_events import Answer, ReplyEvent, ToolCall
from qwen35_mlx.text.stop import StopStrings


class ReplyEnd:
    """Passes the events of a reply through, up to a stop string in its answer or its one call.

    A stop string is found in the answer as its events have it. In thinking and in tool calls it is
    text like any other: a model that thinks about a list may well write what would end the list.

    Args:
        stops: the stop strings.
        one_call: whether the reply ends after a tool call.

    Attributes:
        reached: whether the reply has ended here. `push` returns nothing from then on.
    """

    def __init__(self, stops: Sequence[str] = (), *, one_call: bool = False):
        self._strings = StopStrings(stops)
        self._one_call = one_call
        self.reached = False

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._strings.found

    def push(self, events: Sequence[ReplyEvent]) -> list[ReplyEvent]:
        """The events that are now certain to precede the end."""
        passed: list[ReplyEvent] = []
        for event in events:
            if self.reached:
                break
            if isinstance(event, Answer):
                passed += _answer(self._strings.push(event.text))
                self.reached = self._strings.stopped
            else:
                passed += [*_answer(self._strings.flush()), event]
                self.reached = self._one_call and isinstance(event, ToolCall)
        return passed

    def finish(self, events: Sequence[ReplyEvent]) -> list[ReplyEvent]:
        """As `push` of the last events, with what was held back."""
        return [*self.push(events), *_answer(self._strings.flush())]

    def pending(self, events: Sequence[ReplyEvent]) -> list[ReplyEvent]:
        """What `finish` would give now. More may be pushed afterwards."""
        end = copy(self)
        end._strings = copy(self._strings)
        return end.finish(events)


def _answer(text: str) -> list[ReplyEvent]:
    return [Answer(text)] if text else []
