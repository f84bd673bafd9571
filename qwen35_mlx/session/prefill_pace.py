"""How many tokens of a prompt to read at once while other replies are being written."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from qwen35_mlx.session.job import Job

# Seconds that a chunk may take while others wait for their next token.
CHUNK_SECONDS = 0.25
# Tokens of a chunk on machines that read slowly, beside the sizes that prompts are read in anyway.
SMALL_CHUNKS = (64, 128)
# Weight of the newest chunk in the time of a token.
_NEWEST = 0.5


class PrefillPace:
    """The time that reading a prompt takes, as measured so far.

    Args:
        sizes: in tokens that prompts are read in; few, since kernels are compiled for each.
    """

    def __init__(self, sizes: tuple[int, ...]):
        self._sizes = sorted({*SMALL_CHUNKS, *sizes})
        self._token_seconds: float | None = None

    def chunk(self, whole: int, others_wait: bool) -> int:
        """The size of the next chunk.

        Args:
            whole: the size that is fastest and fits into memory; never more than that.
            others_wait: whether other replies are being written.
        """
        if not others_wait:
            return whole
        fitting = [size for size in self._sizes if self._seconds(size) <= CHUNK_SECONDS]
        return min(whole, max(fitting, default=self._sizes[0]))

    def fits(self, tokens: int, elapsed: float) -> bool:
        """Whether others may wait for these tokens too, after some seconds of reading."""
        return elapsed + self._seconds(tokens) <= CHUNK_SECONDS

    @contextmanager
    def chunk_of(self, job: Job, others_wait: bool) -> Generator[None]:
        """While a job reads a chunk of its prompt: sets the size, and takes note of the time."""
        assert job.reply is not None
        turn, before, started = job.reply.turn, job.read, time.monotonic()
        whole, turn.chunk = turn.chunk, self.chunk(turn.chunk, others_wait)
        yield
        turn.chunk = whole
        if before is not None and job.read is not None:
            self.add(job.read - before, time.monotonic() - started)

    def add(self, tokens: int, seconds: float) -> None:
        """Take note of a chunk."""
        if tokens:
            new = seconds / tokens
            old = new if self._token_seconds is None else self._token_seconds
            self._token_seconds = old + _NEWEST * (new - old)

    def _seconds(self, size: int) -> float:
        """Of a chunk; infinite before the first is timed, so that it is a small one."""
        return float("inf") if self._token_seconds is None else size * self._token_seconds
