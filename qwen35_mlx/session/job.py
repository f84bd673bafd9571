"""A request in a `RequestEngine`, from its arrival to its last event."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qwen35_mlx.distributed.link import ProcessLostError
from qwen35_mlx.errors import BusyError, Qwen35Error, TooLongError
from qwen35_mlx.session.events import Event, Failed, FailureKind, Queued
from qwen35_mlx.session.mlx_thread import user_message
from qwen35_mlx.session.reply_requests import ReplyRequest

if TYPE_CHECKING:
    from qwen35_mlx.session.running_reply import RunningReply

# A session that is open elsewhere is tried again at this distance, for this long.
RETRY_SECONDS, BUSY_SECONDS = 0.05, 10.0


@dataclass(slots=True, eq=False)
class Job:
    """A request and what has become of it so far.

    Attributes:
        receive: called with its events, in the engine's thread, or in that of a loss.
        cancelled: set by any thread; the job then ends at its next step.
        place: the last one in the queue that was delivered; 0 for none.
        read: tokens of the prompt that were in the cache at the last event; None before the first.
        retry_at: when to try again to begin, by `time.monotonic`.
        busy_since: when its session was found open elsewhere; None before.
        reply: None until it is its turn, and after its end.
        counts: whether the length of the prompt is wanted, and no reply.
        ended: whether its last event was delivered.
    """

    request: ReplyRequest
    receive: Callable[[Event], None]
    cancelled: bool = False
    place: int = 0
    read: int | None = None
    retry_at: float = 0.0
    busy_since: float | None = None
    reply: "RunningReply | None" = None
    counts: bool = False
    ended: bool = False
    _delivering: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are to be read before the first token of its reply."""
        return 0 if self.reply is None else self.reply.unread

    def deliver(self, event: Event) -> None:
        """Pass an event on. An error there means that the client is gone."""
        with self._delivering:
            if not self.ended:
                self._pass_on(event)

    def end(self, last: Event) -> None:
        """Deliver the last event, in any thread; nothing is delivered after it."""
        with self._delivering:
            if not self.ended:
                self.ended = True
                self._pass_on(last)

    def _pass_on(self, event: Event) -> None:
        try:
            self.receive(event)
        except BaseException:
            self.cancelled = True

    def tell_place(self, place: int) -> None:
        """Deliver its place in the queue if it has changed."""
        if self.place != place:
            self.place = place
            self.deliver(Queued(place))

    def try_later(self) -> bool:
        """Set when to try again whether its session is free; False after `BUSY_SECONDS`."""
        now = time.monotonic()
        self.busy_since = self.busy_since or now
        self.retry_at = now + RETRY_SECONDS
        return now - self.busy_since <= BUSY_SECONDS

    def stop(self) -> None:
        """End its reply, which keeps what it has."""
        if self.reply is not None:
            with suppress(BaseException):
                self.reply.close()
            self.reply = None


def failure(error: BaseException, kind: FailureKind) -> Failed:
    """The last event of a job that an error has ended.

    Args:
        kind: of an error that is a line for the user but says no more.
    """
    if isinstance(error, TooLongError):
        kind = "too_long"
    elif isinstance(error, BusyError):
        kind = "busy"
    elif isinstance(error, ProcessLostError):
        kind = "lost"
    elif not isinstance(error, Qwen35Error):
        kind = "internal"
    return Failed(user_message(error), kind)
