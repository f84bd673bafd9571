"""The work of a `RequestEngine`'s thread: replies of many clients, in turns.

A round is one token of every reply that is being written and then one chunk of a prompt, or several
short prompts in about the time of one. Replies share the passes of a round
(`generation.decode_group`). A long prompt delays the tokens of others by a chunk at most, and each
of several prompts gets on.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from qwen35_mlx.errors import BusyError, Qwen35Error
from qwen35_mlx.session.events import (
    Cancelled,
    Done,
    Event,
    Failed,
    FailureKind,
    Loading,
    Notice,
    PrefillProgress,
)
from qwen35_mlx.session.job import RETRY_SECONDS, Job, failure
from qwen35_mlx.session.loaded_model import LoadedModel, LoadOptions
from qwen35_mlx.session.lost_processes import GRACE_SECONDS
from qwen35_mlx.session.prefill_pace import PrefillPace
from qwen35_mlx.session.reply_requests import EngineStatus, EngineTotals
from qwen35_mlx.session.requests import UseModel
from qwen35_mlx.session.waiting_jobs import WaitingJobs

if TYPE_CHECKING:
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.session.replies import Replies


class RequestLoop:
    """Runs jobs until it is closed. All but `add`, `wake`, `close` and `status` is one thread's.

    Args:
        model: of requests that name none.
        parallel: how many replies may run at once.
        idle: seconds without a request after which the model is unloaded; None for never.
        notice: called with lines that are not about one request, in any thread.
        totals: to add to.

    Attributes:
        status: what it does, replaced at every step.
        joined: has a result, or an error, once all processes are there that run the model.
        lost: a line about one of them that is lost; "" while all are there.
        hangs: whether MLX waits for that one, so that the thread was left alone.
    """

    def __init__(
        self,
        model: UseModel,
        options: LoadOptions,
        library: "Library | None",
        parallel: int,
        idle: float | None,
        notice: Callable[[str], None],
        totals: EngineTotals,
    ):
        self._model = model
        self._parallel = parallel
        self._idle = idle
        self._notice = notice
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting = WaitingJobs(library)
        self._active: list[Job] = []
        self._closed = False
        self._ended = False
        self._jobs_ended = threading.Event()
        self._end_lock = threading.Lock()
        self._loaded = LoadedModel(
            options, model, library, self._report_loading, notice, self._lose
        )
        self._wanted_load = model
        self._library = library
        self._several = options.place is not None
        self._replies: Replies | None = None
        self._worked_at = time.monotonic()
        self._loading: Loading | None = None
        self._totals = totals
        self.status = EngineStatus(totals=totals)
        self.joined: Future[None] = Future()
        self.lost = ""
        self.hangs = False

    # From any thread

    def add(self, job: Job) -> bool:
        """Add a job; False if the loop has ended, and nothing will come of it."""
        with self._end_lock:
            if not self.lost:
                if not self._ended:
                    self._arrivals.put(job)
                return not self._ended
        job.end(Failed(self.lost, "lost"))
        return True

    def wake(self) -> None:
        """Let the loop see a job's `cancelled`."""
        self._arrivals.put(None)

    def close(self) -> None:
        """Cancel all jobs, and end."""
        self._closed = True
        self.wake()
        self._loaded.give_up_stalled()

    def _lose(self, line: str) -> None:
        """End all jobs after another process was lost, in a thread of its own.

        MLX may wait for that process for ever, in the loop's thread; then that one is left alone.
        """
        with self._end_lock:
            self.lost = line
        self.wake()
        self._notice(line)
        if self._jobs_ended.wait(GRACE_SECONDS):
            return
        self.hangs = True
        self._receive(wait=False)
        for job in [*self._active, *self._waiting.of_both_kinds()]:
            if job.reply is not None:
                with suppress(Exception):
                    job.reply.abandon(line)
            job.end(Failed(line, "lost"))
        self.status = EngineStatus(lost=line, totals=self._totals)

    # From the loop's thread

    def run(self) -> None:
        try:
            self._loaded.join()
        except BaseException as error:
            self.joined.set_exception(error)
            raise
        self.joined.set_result(None)
        # After a loss, running replies fail by themselves, and store what they have.
        while not self._closed and (self._active or not self.lost):
            self._receive(wait=not self._active and not self._waiting.counts)
            self._drop_cancelled()
            if not self.lost:
                self._admit()
            self._step()
            self._publish()

    def end(self, line: str) -> None:
        """Fail what is left, or cancel it if the loop was closed, and free the model."""
        with self._end_lock:
            self._ended = True
            if self._several and not self._closed:
                self.lost = self.lost or line  # the others end, too
        self._receive(wait=False)
        for job in [*self._active, *self._waiting.of_both_kinds()]:
            if self._closed:
                self._finish(job, Cancelled())
            elif self.lost:
                self._finish(job, Failed(self.lost, "lost"))
            else:
                self._fail(job, Qwen35Error(line), "internal")
        self._publish()
        self._jobs_ended.set()
        try:
            self._unload()
        finally:
            self._loaded.close()
        self._publish()

    def _receive(self, wait: bool) -> None:
        """Take what has arrived; if `wait`, until something has or the model is unloaded."""
        if wait:
            # What waits now waits for a session.
            timeout = RETRY_SECONDS if self._waiting else self._seconds_to_idle()
            try:
                self._take(self._arrivals.get(timeout=timeout))
            except queue.Empty:
                if not self._waiting:
                    self._unload()
                    self._publish()
        with suppress(queue.Empty):
            while True:
                self._take(self._arrivals.get_nowait())

    def _take(self, job: Job | None) -> None:
        if job is not None:
            self._waiting.add(job)
            if not job.counts:
                self._totals = replace(self._totals, requests=self._totals.requests + 1)

    def _seconds_to_idle(self) -> float | None:
        """Until the model is unloaded; None if it is not."""
        if self._idle is None or self._loaded.model is None:
            return None
        return max(self._worked_at + self._idle - time.monotonic(), 0)

    def _drop_cancelled(self) -> None:
        """End the waiting jobs that are cancelled."""
        for job in self._waiting.of_both_kinds():
            if job.cancelled:
                self._finish(job, Cancelled())

    def _count(self) -> bool:
        """Measure one prompt, however many replies run. One a round: their tokens wait for it.

        Returns whether replies may begin: not before one that needs another model.
        """
        job = min(self._waiting.counts, key=lambda one: not self._has_model(one), default=None)
        if job is not None and not self._has_model(job):
            if self._active:
                return False
            self._load_for(job)
        if job in self._waiting.counts and self._replies is not None and self._has_model(job):
            try:
                last = self._replies.measured(job.request)
            except BaseException as error:
                last = failure(error, "invalid")
            self._finish(job, last)
        return True

    def _admit(self) -> None:
        """Begin waiting jobs while there is room, and tell the others their places."""
        may_begin = self._count()
        while may_begin and not self._closed and len(self._active) < self._parallel:
            job = self._next()
            if job is None:
                break
            if not self._has_model(job):
                if self._active:
                    break
                self._load_for(job)
            elif not self._begin(job):
                break
        self._waiting.withdraw_late()
        self._waiting.tell_places()

    def _next(self) -> Job | None:
        """The job whose turn it is, without those that wait for a session."""
        now = time.monotonic()
        for job in self._waiting.in_order():
            in_use = self._replies is not None and self._replies.sessions.in_use(job.request)
            # One that has begun waits for memory; its session is in use by itself.
            if job.reply is not None or (job.retry_at <= now and not in_use):
                return job
        return None

    def _wanted(self, job: Job) -> UseModel:
        name = job.request.model
        return self._model if name in (None, self._model.model) else UseModel(name)

    def _has_model(self, job: Job) -> bool:
        return self._loaded.model is not None and self._loaded.wanted == self._wanted(job)

    def _load_for(self, job: Job) -> None:
        """Load the job's model. If that fails, all jobs that want it do."""
        self._wanted_load = wanted = self._wanted(job)
        try:
            self._loaded.find(wanted)
            self._unload()
            self._load(wanted)
        except _AbandonedError:
            pass
        except BaseException as error:
            kind = "internal" if wanted == self._model else "invalid"
            for other in self._waiting.of_both_kinds():
                if self._wanted(other) == wanted:
                    self._fail(other, error, kind)
        finally:
            self._loading = None

    def _load(self, wanted: UseModel) -> None:
        model = self._loaded.load(wanted)
        from qwen35_mlx.session.replies import Replies

        self._replies = Replies(model, self._library)
        self._worked_at = time.monotonic()

    def _unload(self) -> None:
        for job in self._waiting.in_order():
            job.stop()  # one may have waited for memory
            self._waiting.withdraw(job)
        self._replies = None
        self._loaded.unload()

    def _report_loading(self, event: Loading) -> None:
        """Tell the jobs that wait for the model; end the load if none does any more."""
        self._loading = event
        self._receive(wait=False)
        self._drop_cancelled()
        wanted = map(self._wanted, self._waiting.of_both_kinds())
        if self._closed or self._wanted_load not in wanted:
            raise _AbandonedError
        for job in [*self._waiting.counts, *self._waiting.in_order()[: self._parallel]]:
            job.deliver(event)
        self._waiting.tell_places(self._parallel)
        self._publish()

    def _begin(self, job: Job) -> bool:
        """Begin a job, or end it; False if there is no room for it before others have ended."""
        assert self._replies is not None
        try:
            reply = job.reply = job.reply or self._replies.begin(job.request)
        except BusyError as error:
            if not job.try_later():
                self._fail(job, error, "busy")
            return True
        except BaseException as error:
            self._fail(job, error, "invalid")
            return True
        running = [other.reply for other in self._active if other.reply is not None]
        if not self._replies.make_room(running, reply):
            return False
        self._waiting.serve(job)
        self._active.append(job)
        return True

    def _step(self) -> None:
        """One round."""
        if self._replies is None or not self._active:
            return
        writing = [job for job in self._active if not job.unread]
        self._replies.group.wanted = len(writing) > 1
        for job in writing:
            self._advance(job)
        self._read_prompts(self._replies.pace, bool(writing))
        self._worked_at = time.monotonic()

    def _read_prompts(self, pace: PrefillPace, others_wait: bool) -> None:
        """Read a chunk of a prompt, and short prompts while all take no longer than one may."""
        started, first = time.monotonic(), True
        while job := next((job for job in self._active if job.unread), None):
            if not first and not pace.fits(job.unread, time.monotonic() - started):
                break
            first = False
            with pace.chunk_of(job, others_wait):
                self._advance(job)
            if job in self._active:  # the next chunk is another job's, if there is one
                self._active.remove(job)
                self._active.append(job)

    def _advance(self, job: Job) -> None:
        """Go on to the next event of a reply, and deliver it."""
        assert job.reply is not None
        if job.cancelled:
            self._finish(job, Cancelled())
            return
        try:
            event = next(job.reply.events)
        except BaseException as error:
            self._fail(job, error, "internal")
            return
        match event:
            case Done():
                self._finish(job, event)
                return
            case Notice(line):
                self._notice(line)
                return
            case PrefillProgress(done):
                job.read = done
        job.deliver(event)

    def _fail(self, job: Job, error: BaseException, kind: FailureKind) -> None:
        self._finish(job, failure(error, kind))

    def _finish(self, job: Job, last: Event) -> None:
        """End a job's reply, take it out, and deliver its last event."""
        job.stop()
        if job in self._active:
            self._active.remove(job)
        else:
            self._waiting.drop(job)
        if not job.counts:
            self._totals = self._totals.with_end(last)
        self._publish()
        job.end(last)

    def _publish(self) -> None:
        model = self._loaded.model
        self.status = EngineStatus(
            model=model and model.name,
            context=model and model.context,
            loading=self._loading,
            active=len(self._active),
            queued=len(self._waiting),
            lost=self.lost,
            totals=self._totals,
        )


class _AbandonedError(Exception):
    """No job waits for the model that is being loaded."""
