"""The jobs that wait in a `RequestEngine`: for a reply in fair turns, or for a count."""

import time
from typing import TYPE_CHECKING

from qwen35_mlx.session.fair_queue import FairQueue
from qwen35_mlx.session.job import Job

if TYPE_CHECKING:
    from qwen35_mlx.library.library import Library


class WaitingJobs:
    """Jobs by their kind. Its length is the number of those that wait for a reply.

    One whose session is open elsewhere may be the next to have it (`library.title_claims`).

    Args:
        library: of sessions; None for none.

    Attributes:
        counts: jobs that want the length of a prompt. They take no turns of their clients.
    """

    def __init__(self, library: "Library | None"):
        self.counts: list[Job] = []
        self._replies = FairQueue[Job](lambda job: job.request.client)
        self._library = library

    def __len__(self) -> int:
        return len(self._replies)

    def add(self, job: Job) -> None:
        if job.counts:
            self.counts.append(job)
        else:
            self._replies.add(job)

    def serve(self, job: Job) -> None:
        """Take a job for a reply out, and put its client behind all others."""
        self._replies.serve(job)

    def drop(self, job: Job) -> None:
        """Take a job out; its client keeps its turn."""
        if job.counts:
            self.counts.remove(job)
        else:
            self._replies.drop(job)
            self.withdraw(job)

    def in_order(self) -> list[Job]:
        """The jobs for a reply in the order in which they would be served if no other came."""
        return self._replies.in_order()

    def of_both_kinds(self) -> list[Job]:
        """All jobs, counts first."""
        return [*self.counts, *self.in_order()]

    def tell_places(self, begin: int = 0) -> None:
        """Deliver their places to the jobs for a reply, but for the first `begin` of them."""
        for place, job in enumerate(self.in_order()[begin:], 1):
            job.tell_place(place)

    def withdraw(self, job: Job) -> None:
        """Let others have its session before it."""
        if self._library is not None and job.request.title is not None:
            self._library.titles.withdraw(job.request.title)

    def withdraw_late(self) -> None:
        """Let others have the sessions of jobs that could not try again when it was time to.

        There is no room for them here, for no one can say how long.
        """
        now = time.monotonic()
        for job in self.in_order():
            if job.busy_since is not None and job.retry_at <= now:
                self.withdraw(job)
