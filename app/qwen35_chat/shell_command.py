"""A command of the shell, whose output goes into a message: `!git diff`."""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread

from qwen35_chat.typed_signs import with_ascii_sign

SECONDS = 60.0
MOST_BYTES = 100_000  # of the output
POLL_SECONDS = 0.05
LAST_SECONDS = 0.2  # for output that still comes after the end of the shell
# An exclamation mark and the rest of a line, but no picture of Markdown and no "!!!".
_COMMAND = re.compile(r"!\s*([^\s!\uff01\[][^\n]*)")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BEFORE_RETURN = re.compile(r"^[^\n]*\r(?=[^\n])", re.MULTILINE)


def shell_command(text: str) -> str:
    """The command that a text is; "" if it is none."""
    match = _COMMAND.fullmatch(with_ascii_sign(text.rstrip()))
    return match.group(1) if match else ""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command has written.

    Attributes:
        text: without colours and control characters.
        end: how it ended, for people: "exit code 0".
    """

    command: str
    text: str
    end: str

    @property
    def quoted(self) -> str:
        """The command, its output and its end, as a block of code in a message."""
        body = "\n".join(part for part in (f"$ {self.command}", self.text, f"[{self.end}]") if part)
        longest = max(map(len, re.findall(r"`+", body)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}console\n{body}\n{fence}"


class ShellRun:
    """A command that runs, in a process group of its own and without input.

    Attributes:
        output: what came of it; None while it runs.
    """

    def __init__(self, command: str, clock: Callable[[], float] = time.monotonic):
        self.command = command
        self.output: Output | None = None
        self._clock = clock
        self._data = bytearray()
        self._written = 0  # bytes, with those that are not kept
        self._stopped = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._run, name="shell", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """What it has written so far."""
        return _cleaned(bytes(self._data))

    def stop(self) -> None:
        """End it, and all that it has started."""
        self._stopped.set()
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self.output is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False if it has not come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            process = subprocess.Popen(
                [shell, "-c", self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
                start_new_session=True,  # without the terminal, and stopped with all it starts
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.output = Output(self.command, "", f"not run: {shell}: {reason}")
            return
        self._process = process
        end = self._read(process)
        self._kill()
        code = process.wait()
        if self._stopped.is_set():
            end = "stopped"
        elif not end:
            end = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
        if self._written > len(self._data):
            end += f"; the first {len(self._data):,} of {self._written:,} bytes"
        self.output = Output(self.command, self.text, end)

    def _read(self, process: "subprocess.Popen[bytes]") -> str:
        """Read until the command has ended, or is stopped; why it has to be ended, or ""."""
        assert process.stdout is not None
        began = self._clock()
        ended: float | None = None
        with process.stdout as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                if self._stopped.is_set():
                    return ""
                now = self._clock()
                if now - began > SECONDS:
                    return f"stopped after {SECONDS:g} s"
                if process.poll() is not None:
                    ended = now if ended is None else ended
                    if now - ended > LAST_SECONDS:  # something that it started goes on
                        return ""
                if selector.select(POLL_SECONDS):
                    data = os.read(pipe.fileno(), 1 << 16)
                    if not data:
                        break
                    self._written += len(data)
                    self._data += data[: MOST_BYTES - len(self._data)]
        return self._wait_for_end(process, began)

    def _wait_for_end(self, process: "subprocess.Popen[bytes]", began: float) -> str:
        """Wait for a command that has closed its output."""
        while process.poll() is None:
            if self._stopped.wait(POLL_SECONDS):
                return ""
            if self._clock() - began > SECONDS:
                return f"stopped after {SECONDS:g} s"
        return ""


def _cleaned(data: bytes) -> str:
    """Text as a terminal would show it in the end, without colours and control characters."""
    text = _ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n")
    return _CONTROLS.sub("", _BEFORE_RETURN.sub("", text)).rstrip("\n")
