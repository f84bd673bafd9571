"""How long something takes that reports its progress from time to time."""

from collections.abc import Callable


class TimeLeft:
    """Seconds to the end, at the average rate so far.

    They are computed at each report and counted down in between, so that they never climb while
    nothing is reported.

    Args:
        clock: seconds.
        shortest: seconds of progress before which a rate would be noise.
    """

    def __init__(self, clock: Callable[[], float], shortest: float = 0.0):
        self._clock = clock
        self._shortest = shortest
        self._first: tuple[float, int] | None = None  # moment and amount of the first report
        self._end: float | None = None  # when it is expected

    def report(self, done: int, total: int) -> None:
        """Take in progress. What was done at the first report counts as done before."""
        now = self._clock()
        if self._first is None:
            self._first = now, done
        seconds, new = now - self._first[0], done - self._first[1]
        if new > 0 and seconds > self._shortest:
            self._end = now + (total - done) * seconds / new

    @property
    def seconds(self) -> float | None:
        """None while there is too little to go by, and when it takes longer than expected."""
        left = self._end - self._clock() if self._end is not None else 0.0
        return left if left > 0 else None
