"""Runs chat templates in a process of their own, within limits of time and memory.

A template is a downloaded program. jinja2's sandbox keeps it from the rest of Python, but not from
an endless loop or from `'a' * 10**12`, and only a process can be stopped in the middle of either.

Requests go to the process's standard input and answers come from its standard output. Each is 4
bytes of length, little-endian, and the data:

    request   marshal of (source, None) to compile, or (source, variables) to render
    answer    one byte, of `Outcome`, and text in UTF-8

Before the first answer comes the byte `READY`.
"""

import atexit
import marshal
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from functools import cache
from typing import Any

from qwen35_mlx.child_process import child_environment, python_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.lifetime import Owner

# A template takes milliseconds, also for a book. The machine may be busy.
SECONDS = 4.0
START_SECONDS = 30.0
MAX_MEMORY = 512 << 20
MAX_OUTPUT = 64 << 20
LENGTH_BYTES = 4
READY = b"+"
OUT_OF_MEMORY = 70  # the exit code


class Outcome(IntEnum):
    """What an answer's text is."""

    TEXT = 0  # the rendered prompt, or the arguments of a template that compiles, one a line
    SYNTAX_ERROR = 1  # where and why the template does not compile
    COMPILE_ERROR = 2  # why it cannot be compiled otherwise
    REFUSAL = 3  # what it gave to `raise_exception`
    ERROR = 4  # the error that it raised


class LimitError(Exception):
    """A template took too much time or memory, or wrote too much; the message says which."""


class TemplateProcess:
    """The process that runs templates. It starts at the first request, and again after a limit."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False  # whether it has started
        self._lock = threading.Lock()
        self._owner = Owner()

    def start(self) -> None:
        """Start the process, which takes a tenth of a second, without waiting for it.

        Raises:
            Qwen35Error: it does not start.
        """
        with self._lock:
            self._pipes()

    def run(self, source: str, variables: Mapping[str, Any] | None) -> tuple[Outcome, str]:
        """The text that a template renders, or the kind of error and its message.

        Args:
            variables: in plain JSON types; None compiles the template, and gives the names of its
                arguments, one a line.

        Raises:
            LimitError: it takes too much time or memory, or gives too much text.
            Qwen35Error: the process does not start.
        """
        try:
            request = marshal.dumps((source, None if variables is None else dict(variables)))
        except ValueError:
            raise LimitError("is given messages or tools that are nested too deep") from None
        with self._lock:
            try:
                data = self._exchange(request)
            except TimeoutError:
                self._end()
                raise LimitError(f"does not finish within {SECONDS:g} seconds") from None
            except OverflowError:
                self._end()
                raise LimitError(f"writes more than {MAX_OUTPUT >> 20} MiB") from None
            except (EOFError, BrokenPipeError):
                code = self._end(wait=1.0)  # it is ending by itself
                if code == OUT_OF_MEMORY:
                    raise LimitError(f"takes more than {MAX_MEMORY >> 20} MiB of memory") from None
                raise LimitError(f"has ended its process (exit code {code})") from None
            except BaseException:  # such as Ctrl+C: the answer is still on its way
                self._end()
                raise
        return Outcome(data[0]), data[1:].decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """End the process. A fork of the program leaves it to its owner."""
        if not self._owner.in_process:
            return
        with self._lock:
            self._end()

    def _exchange(self, request: bytes) -> bytes:
        """Send a request and wait for its answer, until the time is over."""
        requests, answers = self._pipes()
        if not self._ready:
            _wait(answers, select.POLLIN, time.monotonic() + START_SECONDS)
            self._ready = os.read(answers, 1) == READY
        deadline = time.monotonic() + SECONDS
        unsent = memoryview(len(request).to_bytes(LENGTH_BYTES, "little") + request)
        while unsent:
            _wait(requests, select.POLLOUT, deadline)
            unsent = unsent[os.write(requests, unsent) :]
        received = bytearray()
        end = LENGTH_BYTES
        while len(received) < end:
            _wait(answers, select.POLLIN, deadline)
            piece = os.read(answers, 1 << 20)
            if not piece:
                raise EOFError
            received += piece
            if end == LENGTH_BYTES <= len(received):
                end += int.from_bytes(received[:LENGTH_BYTES], "little")
                if end > MAX_OUTPUT:
                    raise OverflowError
        return bytes(received[LENGTH_BYTES:])

    def _pipes(self) -> tuple[int, int]:
        """Standard input and output of the process, which is started if need be."""
        process = self._process
        if process is None or process.poll() is not None:
            self._end()
            process = self._process = self._start()
            self._ready = False
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        return process.stdin.fileno(), process.stdout.fileno()

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                python_command("qwen35_mlx.text.template_sandbox"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                cwd="/",
                start_new_session=True,  # a Ctrl+C in the terminal is for the parent alone
            )
        except OSError as error:
            raise Qwen35Error(
                f"the process for chat templates does not start ({error.strerror}): close other"
                " programs and try again"
            ) from error

    def _end(self, wait: float = 0.0) -> int:
        """Stop the process, if there is one, and return its exit code.

        Args:
            wait: seconds to let it end by itself.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return process.wait()


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be used.

    Raises:
        TimeoutError: the time is over.
    """
    poller = select.poll()
    poller.register(pipe, event)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def template_process() -> TemplateProcess:
    """The one process of this program. A fork of the program gets its own."""
    return _template_process(os.getpid())


@cache
def _template_process(_: int) -> TemplateProcess:
    process = TemplateProcess()
    atexit.register(process.close)
    return process
