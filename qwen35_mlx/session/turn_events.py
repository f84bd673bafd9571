"""The events of a turn, for the thread that the model belongs to."""

import weakref
from collections.abc import Generator
from typing import Any, TypeVar

from qwen35_mlx.lifetime import Owner
from qwen35_mlx.session.turn import Turn

_Event = TypeVar("_Event")


class TurnEvents(Generator[_Event, None, None]):
    """An iterator over events that refuses other threads before it computes anything.

    Attributes:
        turn: that they are of; None for those of more than a turn.
        open: whether more events may come: neither the last one was taken, nor `close` called, nor
            an error raised.

    Raises:
        Qwen35Error: from `next` and `close`: the caller is not the owner.
    """

    def __init__(self, events: Generator[_Event], owner: Owner, turn: Turn | None = None) -> None:
        self._events = events
        self._owner = owner
        self.turn = turn
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


class LastTurn:
    """The newest turn of a chat. Its events belong to the caller, who may drop them."""

    def __init__(self) -> None:
        self._events: weakref.ref[TurnEvents[Any]] | None = None

    def begin(
        self, events: Generator[_Event], owner: Owner, turn: Turn | None = None
    ) -> TurnEvents[_Event]:
        """The events of the turn that is open from now on."""
        begun = TurnEvents(events, owner, turn)
        self._events = weakref.ref(begun)
        return begun

    def open_events(self) -> TurnEvents[Any] | None:
        """The events of a turn that is neither complete nor closed nor dropped."""
        events = self._events and self._events()
        return events if events is not None and events.open else None
