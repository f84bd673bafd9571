"""From the engine's thread to the event loop: the events of one request."""

import asyncio
from collections import deque
from contextlib import suppress

from qwen35_mlx.session.events import Answer, Event, Thinking


class Exchange:
    """The events of one request. Made in the event loop that takes them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """Add an event, in any thread; nothing happens once the event loop is closed."""
        self._events.append(event)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self, seconds: float) -> list[Event]:
        """The events that are here, at least one; none if none comes within some seconds.

        Neighbouring pieces of a text are one event: a client that reads slowly gets fewer and
        longer ones.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._events:
                    self._arrived.clear()
                    await self._arrived.wait()
        joined: list[Event] = []
        pieces: list[str] = []
        while self._events:
            event = self._events.popleft()
            if not isinstance(event, Answer | Thinking):
                joined.append(event)
                continue
            pieces.append(event.text)
            # Others may be added meanwhile: the next one decides whether the text goes on.
            if not self._events or type(self._events[0]) is not type(event):
                joined.append(type(event)("".join(pieces)))
                pieces = []
        return joined
