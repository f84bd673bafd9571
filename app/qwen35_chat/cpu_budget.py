"""How often the screen may change while a model works in the same process."""

import time
from collections.abc import Callable

LONGEST_WAIT = 1.0  # seconds


class CpuBudget:
    """Limits the work of this thread to a share of the wall-clock time.

    Drawing holds the GIL, which the thread of the model needs too, and its cost grows with what
    is on the screen. With a budget a long conversation is drawn less often, and the reply does
    not slow down.

    Args:
        share: of the wall-clock time, from 0 to 1.
        wall: seconds, on any clock.
        cpu: seconds that this thread has computed.
    """

    def __init__(
        self,
        share: float,
        wall: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ):
        self._share = share
        self._wall = wall
        self._cpu = cpu
        self._last = wall(), cpu()

    def due(self) -> bool:
        """Whether the work since this was last true fits the budget, or a second has passed."""
        wall, cpu = self._wall(), self._cpu()
        waited = wall - self._last[0]
        if waited < LONGEST_WAIT and cpu - self._last[1] > self._share * waited:
            return False
        self._last = wall, cpu
        return True
