"""A terminal without a window, to run programs in from benchmarks and tests.

    with Terminal(["qwen35-chat"], size=(120, 40)) as terminal:
        terminal.until(lambda: "help" in terminal.text)
        terminal.write("Hello\\r")

A pseudo-terminal of the system, with the subset of xterm that Textual writes.
"""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self
from unicodedata import combining, east_asian_width

CHUNK = 1 << 16
_TOKEN = re.compile(
    r"\x1b\[(?P<private>[<=>?]?)(?P<numbers>[0-9:;]*)(?P<more>[ -/]*)(?P<final>[@-~])"
    r"|\x1b[\]PX^_](?:[^\x07\x1b]|\x1b(?!\\))*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f])"
    r"|(?P<text>[^\x00-\x1f\x7f]+)"
)


class Screen:
    """The state of a terminal: characters, cursor and modes, without colours.

    Attributes:
        modes: the private modes that are set: 25 shows the cursor, 1049 is the alternate screen.
    """

    def __init__(self, columns: int, rows: int):
        self.modes = {7, 25}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""
        self._main: list[list[str]] = []
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._cells = self._blank()
        self._x = self._y = 0

    def _blank(self) -> list[list[str]]:
        return [[" "] * self.columns for _ in range(self.rows)]

    @property
    def lines(self) -> list[str]:
        """The rows of the screen, without trailing blanks."""
        return ["".join(row).rstrip() for row in self._cells]

    def feed(self, data: bytes) -> None:
        """Interpret output of the program."""
        text = self._partial + self._decoder.decode(data)
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:  # an incomplete escape sequence
                break
            at = match.end()
            if match["text"]:
                self._put(match["text"])
            elif match["control"]:
                self._control(match["control"])
            elif match["final"]:
                self._sequence(match["private"], match["numbers"], match["final"])
        self._partial = text[at:]

    def _put(self, text: str) -> None:
        for character in text:
            if combining(character):
                continue
            wide = east_asian_width(character) in "WF"
            if self._x + wide >= self.columns:
                self._x = 0
                self._line_feed()
            self._cells[self._y][self._x] = character
            self._x += 1
            if wide and self._x < self.columns:
                self._cells[self._y][self._x] = ""
                self._x += 1

    def _line_feed(self) -> None:
        if self._y < self.rows - 1:
            self._y += 1
        else:
            self._cells = [*self._cells[1:], [" "] * self.columns]

    def _control(self, character: str) -> None:
        if character == "\r":
            self._x = 0
        elif character == "\n":
            self._line_feed()
        elif character == "\b":
            self._x = max(self._x - 1, 0)

    def _sequence(self, private: str, numbers: str, final: str) -> None:
        given = [int(n) if n.isdigit() else 0 for n in numbers.split(";")]
        first = max(given[0], 1)
        match final:
            case "h" | "l" if private == "?":
                self._switch(set(given), final == "h")
            case _ if private:
                pass
            case "H" | "f":
                self._y = min(first, self.rows) - 1
                self._x = min(max(given[1] if len(given) > 1 else 1, 1), self.columns) - 1
            case "A":
                self._y = max(self._y - first, 0)
            case "B":
                self._y = min(self._y + first, self.rows - 1)
            case "C":
                self._x = min(self._x + first, self.columns - 1)
            case "D":
                self._x = max(self._x - first, 0)
            case "K":
                self._erase_line(given[0])
            case "J":
                self._erase(given[0])
            case _:
                pass

    def _switch(self, modes: set[int], on: bool) -> None:
        if 1049 in modes and on != (1049 in self.modes):
            if on:
                self._main, self._cells = self._cells, self._blank()
            else:
                self._cells = self._main if len(self._main) == self.rows else self._blank()
        self.modes = self.modes | modes if on else self.modes - modes

    def _erase_line(self, what: int) -> None:
        row = self._cells[self._y]
        start, end = {0: (self._x, self.columns), 1: (0, self._x + 1)}.get(what, (0, self.columns))
        row[start:end] = [" "] * (min(end, self.columns) - start)

    def _erase(self, what: int) -> None:
        for y in range(self.rows):
            if (what == 0 and y > self._y) or (what == 1 and y < self._y) or what >= 2:
                self._cells[y] = [" "] * self.columns
        if what < 2:
            self._erase_line(what)


class Terminal:
    """A program in a terminal of its own; leaving the context kills it if it still runs.

    Args:
        environment: the complete environment; by default, that of this process.
        folder: working directory.
        size: columns and rows.
        on_output: called with every piece of output.

    Attributes:
        screen: the current content of the terminal.
        written: bytes of output so far.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        size: tuple[int, int] = (80, 24),
        on_output: Callable[[bytes], None] | None = None,
    ):
        self.screen = Screen(*size)
        self.written = 0
        self._on_output = on_output
        self._master, program = pty.openpty()
        _set_size(program, *size)
        try:
            self._process = subprocess.Popen(
                command,
                env=None if environment is None else {"TERM": "xterm-256color", **environment},
                cwd=folder,
                # Makes it the controlling terminal, so that closing it sends SIGHUP.
                preexec_fn=partial(os.login_tty, program),
            )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(program)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.close()

    def close(self) -> None:
        """Close the terminal; the program receives SIGHUP."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    @property
    def text(self) -> str:
        return "\n".join(self.screen.lines)

    def write(self, text: str | bytes) -> None:
        """Send text, or any bytes, as keyboard input."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self._master, data) :]

    def pump(self, seconds: float = 0.05) -> bytes:
        """The next output; empty after `seconds` without any, or when the program has ended."""
        if self._master < 0 or not select.select([self._master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self._master, CHUNK)
        except OSError:  # on Linux, the other side is closed
            return b""
        self.written += len(data)
        self.screen.feed(data)
        if self._on_output is not None:
            self._on_output(data)
        return data

    def until(self, reached: Callable[[], object], seconds: float = 60.0) -> None:
        """Process output until `reached()` is true.

        Raises:
            TimeoutError: it is not after `seconds`, or at the end of the program. The message
                contains the screen.
        """
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                raise TimeoutError(f"not reached after {seconds:g} s; the screen:\n{self.text}")
            if not self.pump() and self._process.poll() is not None:
                self.drain()
                if reached():
                    return
                code = self._process.returncode
                raise TimeoutError(f"program ended with {code} before; the screen:\n{self.text}")

    def drain(self) -> None:
        """Process the output that is available now."""
        while self.pump(0):
            pass

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(columns, rows)
        _set_size(self._master, columns, rows)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> int:
        """Send SIGKILL; returns the exit code."""
        self.send_signal(signal.SIGKILL)
        return self.wait()

    def wait(self, seconds: float = 60.0) -> int:
        """Process output until the program ends; returns its exit code.

        Raises:
            TimeoutError: it runs longer than `seconds`. The message contains the screen.
        """
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            self.pump(0.02)
            if time.monotonic() > end:
                raise TimeoutError(f"did not end in {seconds:g} s; the screen:\n{self.text}")
        self.drain()
        return self._process.returncode

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._process.pid

    @property
    def settings(self) -> list[object]:
        """The terminal attributes, as from `termios.tcgetattr`."""
        return termios.tcgetattr(self._master)


def _set_size(file: int, columns: int, rows: int) -> None:
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
