"""The terminal belongs to the screen: what libraries in C++ and Rust write does not reach it."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from qwen35_mlx.terminal import print_error

FILE_NAME = "libraries.log"
MAX_BYTES = 256 << 10
_CHECK_SECONDS = 5.0


@contextmanager
def guarded_terminal(log: Path) -> Iterator[None]:
    """Standard output and standard error go to a file, and `sys` has other streams for the screen.

    A library that writes to a descriptor, as MLX does before it aborts, would write over the
    screen. Textual writes to `sys.__stderr__`, which is on a copy of the descriptor meanwhile.

    Args:
        log: appended to, with permissions 0600, and emptied when it has `MAX_BYTES`. The null
            device takes its place if it cannot be written.
    """
    descriptor = _open(log)
    size = os.fstat(descriptor).st_size
    ended = Event()
    limit = Thread(target=_limit, args=(descriptor, ended), name="log limit", daemon=True)
    limit.start()
    try:
        with ExitStack() as stack:
            for name, number in (("stdout", 1), ("stderr", 2)):
                stack.enter_context(_redirected(name, number, descriptor))
            yield
    finally:
        ended.set()
        limit.join()
        grown = os.fstat(descriptor).st_size > size
        os.close(descriptor)
        if grown:
            print_error(f"note: libraries wrote messages meanwhile; they are in {log}")


def _open(log: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        return os.open(log, flags | os.O_CREAT, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


@contextmanager
def _redirected(name: str, number: int, to: int) -> Iterator[None]:
    """Descriptor `number` goes to `to`; `sys` has a stream on a copy of it."""
    usual, original = getattr(sys, name), getattr(sys, f"__{name}__")
    usual.flush()
    stream = os.fdopen(
        os.dup(number), "w", buffering=1, encoding=usual.encoding, errors=usual.errors
    )
    os.dup2(to, number)
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)
    try:
        yield
    finally:
        setattr(sys, name, usual)
        setattr(sys, f"__{name}__", original)
        with suppress(OSError):  # the terminal may be gone
            stream.flush()
        os.dup2(stream.fileno(), number)
        with suppress(OSError):
            stream.close()


def _limit(descriptor: int, ended: Event) -> None:
    """Empty the file whenever it is too long."""
    while not ended.wait(_CHECK_SECONDS):
        if os.fstat(descriptor).st_size > MAX_BYTES:  # never of the null device
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
