"""An engine with the interface of `RequestEngine` that delivers scripted events, and no network."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from qwen35_mlx.library.conversation import FinishReason, Usage
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Measured,
    PrefillProgress,
)
from qwen35_mlx.session.reply_requests import EngineStatus, EngineTotals, ReplyRequest

Script = Callable[[ReplyRequest], Iterable[Event | float]]
USAGE = Usage(
    prompt_tokens=20,
    cached_tokens=12,
    reply_tokens=5,
    prefill_seconds=0.5,
    decode_seconds=0.25,
    peak_memory=1,
    reasoning_tokens=3,
)


def done(reason: FinishReason = "stop") -> Done:
    return Done(reason, USAGE, {})


def reply(*events: Event, reason: FinishReason = "stop") -> list[Event]:
    """The events of a whole reply."""
    return [PrefillProgress(12, 20, 12), *events, done(reason)]


def hello(_: ReplyRequest) -> Sequence[Event]:
    return reply(Answer("Hello"), Answer(" there"))


@dataclass
class FakeTicket:
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()


class FakeEngine:
    """Delivers the events of a script, on a thread for each request.

    A number in a script is a pause in seconds; a cancelled request ends at it.
    """

    def __init__(self, script: Script = hello):
        self.script = script
        self.requests: list[ReplyRequest] = []
        self.tickets: list[FakeTicket] = []

    def submit(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> FakeTicket:
        ticket = FakeTicket()
        self.requests.append(request)
        self.tickets.append(ticket)
        threading.Thread(target=self._run, args=(request, deliver, ticket), daemon=True).start()
        return ticket

    def count(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> FakeTicket:
        self.requests.append(request)
        deliver(Measured(None, 42, 7))
        return FakeTicket()

    def status(self) -> EngineStatus:
        totals = EngineTotals(requests=3, completed=2, prompt_tokens=40, prefill_seconds=1.5)
        return EngineStatus("fake", 4096, None, 1, 2, totals)

    def _run(
        self, request: ReplyRequest, deliver: Callable[[Event], None], ticket: FakeTicket
    ) -> None:
        for event in self.script(request):
            if isinstance(event, int | float):
                if ticket.cancelled.wait(event):
                    deliver(Cancelled())
                    break
                continue
            deliver(event)
        ticket.ended.set()


def failing(message: str, kind: str) -> Script:
    return lambda _: [Failed(message, kind)]  # type: ignore[arg-type]


def wait_until(found: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
