"""Who has a thing open: one lock file each, held with flock.

The operating system lets go of such a lock when the process dies, however it dies, so there is
never a stale one. It belongs to the open file, not to the process: two windows in one process
exclude each other too.
"""

import fcntl
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error


class Lock:
    """A lock that is held; made by `try_lock`."""

    def __init__(self, file: Path, descriptor: int):
        self._file = file
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go, and leave no file behind. A second call does nothing."""
        if self._descriptor is None:
            return
        # Removed while still locked: see `try_lock` for those who wait with the old file open.
        with suppress(OSError):
            self._file.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def try_lock(file: Path) -> Lock | None:
    """Lock `file`, which is made if need be; None if someone else holds it.

    Raises:
        Qwen35Error: the file cannot be made or locked.
    """
    try:
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same_file(file, descriptor):
                    return Lock(file, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder has removed it meanwhile: take the new one
    except OSError as error:
        raise _cannot_lock(file, error) from None


class NamedLocks:
    """The named locks of one window, whose threads may each hold one for their own reasons.

    Args:
        folder: of the lock files; made at first use.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._locks: dict[str, Lock] = {}
        self._reasons: dict[str, set[str]] = {}
        self._guard = threading.Lock()

    def acquire(self, name: str, reason: str) -> bool:
        """Lock a name, or keep it locked, for one reason more; False if another window has it."""
        with self._guard:
            if name not in self._locks:
                try:
                    self._folder.mkdir(mode=0o700, exist_ok=True)
                except OSError as error:
                    raise _cannot_lock(self._folder, error) from None
                lock = try_lock(self._folder / name)
                if lock is None:
                    return False
                self._locks[name] = lock
            self._reasons.setdefault(name, set()).add(reason)
            return True

    def release(self, name: str, reason: str) -> None:
        """Take one reason away; with the last one the lock goes."""
        with self._guard:
            reasons = self._reasons.get(name, set())
            reasons.discard(reason)
            if not reasons and name in self._locks:
                self._locks.pop(name).release()

    def names(self, reason: str) -> set[str]:
        """The names that are locked for a reason."""
        with self._guard:
            return {name for name, reasons in self._reasons.items() if reason in reasons}

    def close(self) -> None:
        """Let go of all."""
        with self._guard:
            self._reasons.clear()
            while self._locks:
                self._locks.popitem()[1].release()


@contextmanager
def locked(file: Path, seconds: float) -> Generator[None]:
    """Hold a lock, after waiting for it for some time.

    Raises:
        Qwen35Error: someone else holds it for longer.
    """
    deadline = time.monotonic() + seconds
    while (lock := try_lock(file)) is None:
        if time.monotonic() > deadline:
            raise Qwen35Error(f"{file.parent} is being opened by another window: try again")
        time.sleep(0.01)
    try:
        yield
    finally:
        lock.release()


def _is_same_file(file: Path, descriptor: int) -> bool:
    """Whether the open file is still the one that has this name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _cannot_lock(file: Path, error: OSError) -> Qwen35Error:
    return Qwen35Error(
        f"{file} cannot be locked ({error.strerror}): set QWEN35_HOME to a folder on a local disk"
        " that you may write to"
    )
