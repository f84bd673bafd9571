"""One thread with an event loop, for everything that waits for servers."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from logging import NullHandler, getLogger
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class EventLoopThread:
    """Runs coroutines beside the screen. It is a daemon, so a server never keeps the chat alive."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name="mcp", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, seconds: float) -> None:
        """End the loop; nothing may be submitted after."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(seconds)

    def _run(self) -> None:
        # What the packages log would be written over the screen.
        for name in ("mcp", "httpx2", "asyncio"):
            logger = getLogger(name)
            logger.addHandler(NullHandler())
            logger.propagate = False
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
