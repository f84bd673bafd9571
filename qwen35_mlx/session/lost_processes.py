"""What an engine does when a process is lost that runs the model with it.

MLX may wait for it for ever, in the engine's thread. So the running request is ended by another
thread, and the engine's one is left alone.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from qwen35_mlx.session.events import Event, Failed, ProcessesLost

# How long the engine's thread may take to notice by itself.
GRACE_SECONDS = 2.0


class LossWatch:
    """Ends the request that is running when a process is lost.

    Args:
        save: called before a request is ended that the engine's thread hangs in, with the line
            about the loss.
        emit: takes the events.

    Attributes:
        abandoned: the line, once the engine's thread is left alone; "" before.
    """

    def __init__(self, save: Callable[[str], None], emit: Callable[[Event], None]):
        self._save, self._emit = save, emit
        self._idle = threading.Event()
        self._idle.set()
        self._ending = threading.Lock()
        self.abandoned = ""
        self.fits = False  # whether the model fits into this machine alone

    @contextmanager
    def request(self) -> Iterator[None]:
        """The time that a request takes, in the engine's thread."""
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    def emit(self, event: Event) -> None:
        """Emit the last event of a request, unless it was ended here."""
        with self._ending:
            if not self.abandoned:
                self._emit(event)
                self._idle.set()

    def lost(self, line: str) -> None:
        """Take note of the loss; called in a thread of its own."""
        if not self._idle.wait(GRACE_SECONDS):
            with self._ending:
                hangs = not self._idle.is_set()
                if hangs:
                    self.abandoned = line
            if hangs:
                with suppress(Exception):
                    self._save(line)
                self._emit(Failed(line))
        self._emit(ProcessesLost(line, self.fits))


def end_process(code: int) -> NoReturn:
    """End this process after a loss, once all is saved.

    A thread that waits in MLX would make its destructors abort the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)
