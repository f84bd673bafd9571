"""What an object belongs to, and what is left to do when it is forgotten.

MLX arrays belong to the thread that made them: another thread that computes with them aborts the
process at its end. A forked process inherits objects, but neither the threads nor the locks behind
them.
"""

import os
import threading
import weakref
from contextlib import suppress
from typing import Protocol

from qwen35_mlx.errors import Qwen35Error


class Owner:
    """The process and the thread that made an object."""

    def __init__(self) -> None:
        self._process = os.getpid()
        # Not its number, which a later thread may get again.
        self._thread = threading.current_thread()

    @property
    def in_process(self) -> bool:
        """Whether this is the same process, and not one forked from it."""
        return os.getpid() == self._process

    @property
    def here(self) -> bool:
        """Whether this is the same process and the same thread."""
        return self.in_process and threading.current_thread() is self._thread

    def check(self, what: str) -> None:
        """Refuse another thread or process.

        Args:
            what: the object, such as "this model".

        Raises:
            Qwen35Error: the caller is not the owner.
        """
        self.check_process(what)
        if not self.here:
            raise Qwen35Error(
                f"{what} belongs to the thread {self._thread.name!r}, and this is "
                f"{threading.current_thread().name!r}: use it there, or load the model here, too"
            )

    def check_process(self, what: str) -> None:
        """Refuse a forked process.

        Raises:
            Qwen35Error: the caller is in another process.
        """
        if not self.in_process:
            raise Qwen35Error(
                f"{what} belongs to process {self._process}, from which this one was forked: use it"
                " there, or start processes that are not forked (multiprocessing: 'spawn')"
            )


class Closable(Protocol):
    """An object with `close()`."""

    def close(self) -> None: ...


def close_at_exit(thing: Closable) -> None:
    """Close `thing` when Python exits, if it is still in use then. It is not kept alive.

    What was opened last is closed first.
    """
    weakref.finalize(thing, _close, weakref.ref(thing))


def _close(reference: "weakref.ref[Closable]") -> None:
    if (thing := reference()) is not None:  # None if it was dropped, and Python is not exiting
        # A turn that another thread has not finished stays as it was last saved.
        with suppress(Qwen35Error):
            thing.close()
