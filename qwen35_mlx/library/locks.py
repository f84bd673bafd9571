"""Lock files, held with flock.

The operating system releases such a lock when the process ends for any reason, so locks are never
stale. A lock belongs to the open file, not to the process: two windows of one process exclude each
other too.
"""

import fcntl
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.lifetime import Owner


class Lock:
    """A lock that is held, from `try_lock`."""

    def __init__(self, file: Path, descriptor: int):
        self._file = file
        self._descriptor: int | None = descriptor
        self._owner = Owner()

    def release(self) -> None:
        """Release the lock and remove its file. A second call does nothing.

        In a forked process, only its copy of the descriptor is closed: the parent has the lock.
        """
        if self._descriptor is None:
            return
        # Remove the file before unlocking: `try_lock` detects that its open file is gone.
        if self._owner.in_process:
            with suppress(OSError):
                self._file.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def try_lock(file: Path) -> Lock | None:
    """Lock `file`, creating it if missing; None if it is locked already.

    Raises:
        Qwen35Error: the file cannot be created or locked.
    """
    try:
        while True:
            # Never through a link, and never waiting for the other end of a pipe.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(file, flags, 0o600)
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
            os.close(descriptor)  # the previous holder removed the file: try again with a new one
    except OSError as error:
        raise _cannot_lock(file, error) from None


def is_locked(file: Path) -> bool:
    """Whether another process holds a lock on an existing file. It is not changed."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class NamedLocks:
    """The named locks of one window. A lock is held as long as there is a reason for it.

    Args:
        folder: the folder of the lock files; created at first use.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._locks: dict[str, Lock] = {}
        self._reasons: dict[str, set[str]] = {}
        self._mutex = threading.Lock()
        self._owner = Owner()

    def acquire(self, name: str, reason: str) -> bool:
        """Add a reason to lock a name; False if another window has locked it."""
        self._owner.check_process("this library")
        with self._mutex:
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
        """Remove a reason. The lock is released with the last one."""
        with self._mutex:
            reasons = self._reasons.get(name, set())
            reasons.discard(reason)
            if not reasons and name in self._locks:
                self._locks.pop(name).release()

    def names(self, reason: str) -> set[str]:
        """The names that are locked for this reason."""
        with self._mutex:
            return {name for name, reasons in self._reasons.items() if reason in reasons}

    def close(self) -> None:
        """Release all locks."""
        if not self._owner.in_process:
            self._mutex = threading.Lock()  # a thread of the parent may have held it
        with self._mutex:
            self._reasons.clear()
            while self._locks:
                self._locks.popitem()[1].release()


@contextmanager
def locked(file: Path, seconds: float) -> Generator[None]:
    """Hold the lock of `file`, waiting for it for up to `seconds`.

    Raises:
        Qwen35Error: it is still locked after that time.
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
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _cannot_lock(file: Path, error: OSError) -> Qwen35Error:
    return Qwen35Error(
        f"{file} cannot be locked ({error.strerror}): set QWEN35_HOME to a folder on a local disk"
        " that you may write to"
    )
