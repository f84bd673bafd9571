"""Downloading a model in a process of its own, which can be cancelled at any time and resumed.

The process runs this module with the repository's name and `stall_seconds`. It prints one JSON
object per line: progress as {"done": BYTES, "total": BYTES}, and at the end {"folder": PATH} or
{"error": LINE}.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from threading import Thread

from qwen35_chat.time_left import TimeLeft
from qwen35_mlx import exit_codes
from qwen35_mlx.child_process import child_environment, python_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import print_line

REPORTS_PER_SECOND = 5


class Download:
    """A download in progress, or finished.

    Args:
        name: the repository.
        command: the process to start; the default is this module's.
        stall_seconds: how long the Hub may be silent; None for the time it usually gets.

    Attributes:
        done, total: bytes; both 0 until they are known.
        folder: of the checkpoint, once it is complete; "" until then.
        error: one line if it failed; "" if not.
        cancelled: whether `cancel` was called.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float | None = None,
    ):
        self.name = name
        self.done = 0
        self.total = 0
        self.folder = ""
        self.error = ""
        self.cancelled = False
        # The first report counts the bytes of earlier, interrupted downloads.
        self._left = TimeLeft(clock, shortest=1.0)
        limit = () if stall_seconds is None else (str(stall_seconds),)
        self._process = subprocess.Popen(
            command or python_command("qwen35_chat.download", name, *limit),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that Ctrl+C in the terminal reaches only the app
        )
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def fraction(self) -> float:
        """From 0 to 1; 0 until the total is known."""
        return self.done / self.total if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """As `TimeLeft.seconds`."""
        return self._left.seconds

    def cancel(self) -> None:
        """Stop it; the next download resumes where this one ends."""
        self.cancelled = True
        self._process.terminate()

    def close(self) -> None:
        """Cancel it and wait until it has stopped."""
        self.cancel()
        self._thread.join(5)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                report = json.loads(line)
            except ValueError:
                continue
            if not isinstance(report, dict):
                continue
            if "done" in report:
                self.done, self.total = int(report["done"]), int(report["total"])
                self._left.report(self.done, self.total)
            self.folder = report.get("folder", self.folder)
            self.error = report.get("error", self.error)
        self._process.wait()
        if not (self.folder or self.error or self.cancelled):
            code = self._process.returncode
            self.error = (
                f"the download of {self.name} ended with code {code}: try again, it goes on"
            )


def throttled(report: Callable[[dict[str, object]], None]) -> Callable[[int, int, str], None]:
    """A progress callback of `resolve` that reports `REPORTS_PER_SECOND` times a second at most.

    The last report, of a complete download, is never left out.
    """
    last = 0.0

    def progress(done: int, total: int, _: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1 / REPORTS_PER_SECOND or done >= total:
            last = now
            report({"done": done, "total": total})

    return progress


def main(name: str, stall_seconds: float | None = None) -> int:
    """Download `name` and report on standard output. Returns the exit code."""

    from qwen35_mlx.checkpoint.hub import STALL_SECONDS, resolve_checkpoint

    stall_seconds = STALL_SECONDS if stall_seconds is None else stall_seconds

    def report(fields: dict[str, object]) -> None:
        print_line(json.dumps(fields))

    try:
        folder = resolve_checkpoint(name, progress=throttled(report), stall_seconds=stall_seconds)
    except Qwen35Error as error:
        report({"error": str(error)})
        return exit_codes.BAD_INPUT
    report({"folder": str(folder)})
    return 0


if __name__ == "__main__":
    # At once: a normal exit waits for the threads of a download that has stalled.
    os._exit(main(sys.argv[1], *map(float, sys.argv[2:])))
