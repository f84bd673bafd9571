"""The events of a turn, for the thread that the model belongs to."""

import weakref
from collections.abc import Generator
from typing import Any, TypeVar

from qwen35_mlx.errors import Qwen35Error
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

    def check_over(self) -> None:
        """Refuse another turn before the end of this one.

        Raises:
            Qwen35Error: its events are neither complete nor closed nor dropped.
        """
        if self._open_events() is not None:
            raise Qwen35Error(
                "the last reply of this chat is still being written: take its events to the end, "
                "or close() them"
            )

    def close(self) -> None:
        """Cancel the turn, if it is not over."""
        if (events := self._open_events()) is not None:
            events.close()

    def _open_events(self) -> TurnEvents[Any] | None:
        events = self._events and self._events()
        return events if events is not None and events.open else None
