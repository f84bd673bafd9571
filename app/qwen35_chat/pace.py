"""How often the screen may change while a model works in the same process."""

import time
from collections.abc import Callable

LONGEST_WAIT = 1.0  # seconds


class Pace:
    """Holds work on this thread to a share of its time.

    Drawing takes the interpreter from the thread that the model runs on. Its cost grows with what
    is on the screen, so a long conversation is drawn less often instead of slowing the reply.

    Args:
        share: of the wall-clock time that this thread may compute.
        wall, cpu: seconds that have passed, and that this thread has computed.
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
        """Whether what was done since this was last true is made up for, or a second is up."""
        wall, cpu = self._wall(), self._cpu()
        waited = wall - self._last[0]
        if waited < LONGEST_WAIT and cpu - self._last[1] > self._share * waited:
            return False
        self._last = wall, cpu
        return True
