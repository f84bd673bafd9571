"""Clients of a request engine, for tests: they submit requests and note what comes of them."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.session.events import Cancelled, Done, Event, Failed
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.request_engine import RequestEngine, Ticket

ENDS = (Done, Cancelled, Failed)
GREEDY: Mapping[str, Any] = {"temperature": 0.0, "presence_penalty": 0.5}


@dataclass
class Asked:
    """A request, and its events as they come."""

    ticket: Ticket
    events: list[Event]
    ended: threading.Event

    def end(self) -> Event:
        """Its last event."""
        assert self.ended.wait(60), self.events
        assert [isinstance(event, ENDS) for event in self.events].count(True) == 1
        return self.events[-1]

    def done(self) -> Done:
        end = self.end()
        assert isinstance(end, Done), end
        return end

    def failed(self) -> Failed:
        end = self.end()
        assert isinstance(end, Failed), end
        return end

    def wait_for(self, *kinds: type) -> None:
        deadline = time.monotonic() + 60
        while not any(isinstance(event, kinds) for event in list(self.events)):
            assert time.monotonic() < deadline, self.events
            time.sleep(0.002)


@dataclass
class Clients:
    """Submits requests, and notes all events in the order in which the engine delivers them."""

    engine: RequestEngine
    order: list[tuple[str, Event]] = field(default_factory=list)

    def ask(
        self,
        text: str | Sequence[Mapping[str, Any]],
        *,
        client: str = "",
        session: str | None = None,
        seen: Callable[[Event], None] = lambda event: None,
        **options: Any,
    ) -> Asked:
        """A question, or a whole history."""
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        options = {"max_tokens": 12, **GREEDY, **options}
        request = ReplyRequest(tuple(messages), options=options, session=session, client=client)
        return self.submit(request, seen)

    def submit(
        self, request: ReplyRequest, seen: Callable[[Event], None] = lambda event: None
    ) -> Asked:
        events: list[Event] = []
        ended = threading.Event()

        def deliver(event: Event) -> None:
            events.append(event)
            self.order.append((request.client, event))
            if isinstance(event, ENDS):
                ended.set()
            seen(event)

        return Asked(self.engine.submit(request, deliver), events, ended)
