"""Calls that may wait: for the disk, or for the transaction of another window.

On the screen each lane is a thread, so that no key waits for the disk. Plain mode makes its calls
at once. The callers are the same: coroutines that await `run`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple

from qwen35_mlx.errors import Qwen35Error

# The calls of a lane are made in order.
#   library  changes of the library, and reads that must see them
#   reads    other reads of the library, which do not wait for changes
#   files    settings, attachments, history, exports
#   models   the checkpoints on this machine and their tokenizers
Lane = Literal["library", "reads", "files", "models"]

# A part of a command, which may wait.
Work = Coroutine[Any, Any, None]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class DiskCalls(Protocol):
    """Where calls that may wait are made."""

    @property
    def library_seconds(self) -> float:
        """How long the oldest call in the library's lane has been waiting; 0 without one."""
        ...

    @property
    def library_failures(self) -> int:
        """How many calls in the library's lane have raised an error."""
        ...

    async def run(
        self, lane: Lane, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> T:
        """Make a call: returns what it returns, raises what it raises.

        A call that is cancelled before its turn is not made.
        """
        ...

    def start(
        self, lane: Lane, function: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        """Make a call that nobody awaits. `take_errors` has its errors."""
        ...

    def take_errors(self) -> list[str]:
        """The lines of each `Qwen35Error` of started calls since this was last called.

        Raises:
            Exception: any other error of such a call.
        """
        ...

    def close(self, seconds: float) -> bool:
        """Wait until every call was made, but for models; False if `seconds` are too few.

        It may be called again to wait for longer. No other call may follow.
        """
        ...


class InlineCalls:
    """Makes each call at once, in the caller's thread."""

    library_seconds = 0.0
    library_failures = 0

    def __init__(self) -> None:
        self._errors: list[str] = []

    async def run(
        self, lane: Lane, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> T:
        return function(*arguments)

    def start(
        self, lane: Lane, function: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        try:
            function(*arguments)
        except Qwen35Error as error:
            self._errors.append(str(error))

    def take_errors(self) -> list[str]:
        errors, self._errors = self._errors, []
        return errors

    def close(self, seconds: float) -> bool:
        return True


class ThreadCalls:
    """Makes the calls of each lane in a thread. The calls come from one thread.

    The threads are daemons: a disk that never answers does not keep the process alive.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lanes: dict[Lane, _LaneThread] = {}
        self._errors: deque[BaseException] = deque()

    @property
    def library_seconds(self) -> float:
        lane = self._lanes.get("library")
        since = lane.waiting_since if lane is not None else None
        return self._clock() - since if since is not None else 0.0

    @property
    def library_failures(self) -> int:
        lane = self._lanes.get("library")
        return lane.failures if lane is not None else 0

    @property
    def idle(self) -> bool:
        """Every call was made."""
        return all(lane.waiting_since is None for lane in self._lanes.values())

    async def run(
        self, lane: Lane, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> T:
        return await asyncio.wrap_future(self._add(lane, lambda: function(*arguments)))

    def start(
        self, lane: Lane, function: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        call = self._add(lane, lambda: function(*arguments))
        call.add_done_callback(self._note_error)

    def take_errors(self) -> list[str]:
        lines: list[str] = []
        while self._errors:
            error = self._errors.popleft()
            if not isinstance(error, Qwen35Error):
                raise error
            lines.append(str(error))
        return lines

    def close(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for lane in self._lanes.values():
            lane.end()
        changing = (lane for name, lane in self._lanes.items() if name != "models")
        return all(lane.wait(deadline) for lane in changing)

    def _add(self, lane: Lane, call: Callable[[], T]) -> Future[T]:
        if lane not in self._lanes:
            self._lanes[lane] = _LaneThread(lane, self._clock)
        return self._lanes[lane].add(call)

    def _note_error(self, call: Future[Any]) -> None:
        if not call.cancelled() and (error := call.exception()) is not None:
            self._errors.append(error)


class _LaneThread:
    """A thread that makes calls in order.

    Attributes:
        failures: how many calls have raised an error.
    """

    def __init__(self, name: str, clock: Callable[[], float]):
        self.failures = 0
        self._clock = clock
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._waiting: deque[float] = deque()  # when the calls that are not over were added
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting_since(self) -> float | None:
        """When the oldest call that is not over was added; None without one."""
        try:
            return self._waiting[0]
        except IndexError:
            return None

    def add(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.append(self._clock())
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """End the thread after the calls that were added."""
        self._calls.put(None)

    def wait(self, deadline: float) -> bool:
        """Wait until the thread has ended; False if it has not at `deadline`.

        Args:
            deadline: on `time.monotonic`.
        """
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    self.failures += 1
                    future.set_exception(error)
            self._waiting.popleft()
            del entry, future, call  # not kept until the next call


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose calls are inline, so that it never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a coroutine waits for the disk where nothing can wait for it")
