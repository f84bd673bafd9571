"""`RequestEngine`: one thread that owns the model and replies to many clients at once."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.lifetime import Owner, close_at_exit
from qwen35_mlx.session.events import Event
from qwen35_mlx.session.job import Job
from qwen35_mlx.session.loaded_model import LoadOptions
from qwen35_mlx.session.mlx_thread import CLOSE_SECONDS, mlx_thread
from qwen35_mlx.session.reply_requests import EngineStatus, EngineTotals, ReplyRequest
from qwen35_mlx.session.request_loop import RequestLoop
from qwen35_mlx.session.requests import UseModel
from qwen35_mlx.terminal import print_error

if TYPE_CHECKING:
    from qwen35_mlx.library.library import Library


class Ticket:
    """A request that was submitted."""

    def __init__(self, job: Job, wake: Callable[[], None]):
        self._job = job
        self._wake = wake

    def cancel(self) -> None:
        """End the request with `Cancelled`, unless it has ended.

        A reply ends within one chunk of a prompt or one token of each reply that runs.
        """
        self._job.cancelled = True
        self._wake()


class RequestEngine:
    """Replies to requests of many clients. All methods may be called from any thread.

    The model is loaded when the first request needs it. Up to `parallel` replies run at once, as
    memory allows; other requests wait in a queue that is fair to clients. Prompts of all clients
    begin at the longest prefix that the prompt cache has.

    No error ends the thread without a word: whatever a request raises becomes its `Failed`. Should
    the thread end all the same, its requests fail, and the next one starts another. Where other
    processes run the model, too, and one is lost, all requests fail from then on.

    Args:
        model: of requests that name none, as for `qwen35_mlx.load`.
        library: where sessions and model states are stored; None for memory only. The caller
            closes it, after the engine.
        parallel: how many replies may run at once.
        idle: seconds without a request after which the model is unloaded; None for never.
        revision: of `model`, as for `qwen35_mlx.load`.
        notice: called with lines for whoever runs the engine, in any thread; by default they go to
            stderr.
        load_arguments: the fields of `LoadOptions`.
    """

    def __init__(
        self,
        model: str,
        *,
        library: "Library | None",
        parallel: int = 8,
        idle: float | None = None,
        revision: str | None = None,
        notice: Callable[[str], None] | None = None,
        **load_arguments: Any,
    ):
        if parallel < 1:
            raise Qwen35Error(f"parallel is {parallel}: give a number of replies, 1 or more")
        self._model = UseModel(model, revision)
        self._options = LoadOptions(**load_arguments)
        self._library = library
        self._parallel = parallel
        self._idle = idle
        self._notice = notice or print_error
        if library is not None:
            library.report_to(self._notice)
        self._owner = Owner()
        self._lock = threading.Lock()
        self._closed = False
        self._loop = self._new_loop(EngineTotals())
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, and wait for other processes that run the model. Once is enough.

        Raises:
            Qwen35Error: the engine is closed, or the processes do not find or fit each other.
        """
        with self._lock:
            self._check_open()
            if self._thread is None:
                self._start_thread()
                close_at_exit(self)
        if self._options.place is not None:
            self._loop.joined.result()

    def submit(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> Ticket:
        """Queue a request. Does not wait.

        Args:
            deliver: called on the engine's thread with the request's events: `Queued` and
                `Loading` while it waits, `PrefillProgress`, the events of the reply, and exactly
                one last event, which is `Done`, `Cancelled` or `Failed`. It must return at once.
                If it raises an error, the request is cancelled.

        Raises:
            Qwen35Error: the engine is closed, or was not started.
        """
        return self._add(Job(request, deliver))

    def count(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> Ticket:
        """Queue a request for the length of its prompt, without a reply.

        Args:
            deliver: as for `submit`; the last event is `Measured`, `Cancelled` or `Failed`.

        Raises:
            Qwen35Error: the engine is closed, or was not started.
        """
        return self._add(Job(request, deliver, counts=True))

    def _add(self, job: Job) -> Ticket:
        with self._lock:
            self._check_open()
            if self._thread is None:
                raise Qwen35Error("this engine was not started: call start() first")
            if not self._loop.add(job):
                self._loop = self._new_loop(self._loop.status.totals)
                self._start_thread()
                self._loop.add(job)
            return Ticket(job, self._loop.wake)

    def status(self) -> EngineStatus:
        """What it does now."""
        return self._loop.status

    def close(self) -> None:
        """Cancel all requests, and wait up to `CLOSE_SECONDS` for the thread to end."""
        if not self._owner.in_process:
            return
        with self._lock:
            self._closed = True
            self._loop.close()
        thread, here = self._thread, threading.current_thread()
        if thread is not None and thread is not here and not self._loop.hangs:
            # A load cannot be interrupted: the thread then ends with the process.
            thread.join(CLOSE_SECONDS)

    def _check_open(self) -> None:
        self._owner.check_process("this engine")
        if self._closed:
            raise Qwen35Error("this engine is closed: make a new one")

    def _new_loop(self, totals: EngineTotals) -> RequestLoop:
        return RequestLoop(
            self._model,
            self._options,
            self._library,
            self._parallel,
            self._idle,
            self._notice,
            totals,
        )

    def _start_thread(self) -> None:
        loop, why = self._loop, ["it was closed"]
        what = "the engine ended and is started again: try again"
        if self._options.place is not None:
            what = "the engine ended: start all processes again"
        self._thread = mlx_thread(loop.run, lambda: loop.end(f"{what} ({why[-1]})"), why.append)
        self._thread.start()
