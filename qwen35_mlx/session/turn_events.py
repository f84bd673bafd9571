"""The events of a turn, for the thread that the model belongs to."""

from collections.abc import Generator
from typing import Any, TypeVar

from qwen35_mlx.lifetime import Owner

_Event = TypeVar("_Event")


class TurnEvents(Generator[_Event, None, None]):
    """An iterator over events that refuses other threads before it computes anything.

    Attributes:
        open: whether more events may come: neither the last one was taken, nor `close` called, nor
            an error raised.

    Raises:
        Qwen35Error: from `next` and `close`: the caller is not the owner.
    """

    def __init__(self, events: Generator[_Event], owner: Owner) -> None:
        self._events = events
        self._owner = owner
        self.open = True

    def send(self, value: None) -> _Event:
        self._owner.check("this reply")
        try:
            return self._events.send(value)
        except BaseException:
            self.open = False
            raise

    def throw(self, *error: Any) -> _Event:
        self._owner.check("this reply")
        try:
            return self._events.throw(*error)
        except BaseException:
            self.open = False
            raise

    def close(self) -> None:
        if self.open:
            super().close()
