"""Fetching a model in a process of its own: it can be ended at any time, and goes on later.

Run as `python -m qwen35_chat.download ORG/REPO`, it prints one JSON object a line: bytes so far
and in all, and at last the folder, or an error.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from threading import Thread

from qwen35_mlx.errors import Qwen35Error

REPORTS_PER_SECOND = 5


class Download:
    """A download that runs.

    Args:
        name: the repository.
        command: what runs; the tests have another one.

    Attributes:
        done, total: bytes; 0 of 0 before anything is known.
        folder: where it is, once all is there.
        error: one line, if it failed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name = name
        self._clock = clock
        self.done = 0
        self.total = 0
        self.folder = ""
        self.error = ""
        self.cancelled = False
        self._first: tuple[float, int] | None = None  # when something was first known, and what
        self._process = subprocess.Popen(
            command or [sys.executable, "-m", "qwen35_chat.download", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl+C in the terminal is for the app
        )
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None while it cannot be said."""
        if self._first is None:
            return None
        since, before = self._first  # what is there from an earlier time has cost nothing now
        passed, fetched = self._clock() - since, self.done - before
        if fetched <= 0 or passed < 1:
            return None
        return (self.total - self.done) * passed / fetched

    def cancel(self) -> None:
        """End it; what is there stays, and the next download goes on from there."""
        self.cancelled = True
        self._process.terminate()

    def close(self) -> None:
        """Cancel, and wait for its end."""
        self.cancel()
        self._thread.join(5)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if not isinstance(said, dict):
                continue
            if "done" in said:
                self.done, self.total = int(said["done"]), int(said["total"])
                self._first = self._first or (self._clock(), self.done)
            self.folder = said.get("folder", self.folder)
            self.error = said.get("error", self.error)
        self._process.wait()
        if not (self.folder or self.error or self.cancelled):
            code = self._process.returncode
            self.error = (
                f"the download of {self.name} ended with code {code}: try again, it goes on"
            )


def throttled(report: Callable[[dict[str, object]], None]) -> Callable[[int, int, str], None]:
    """A progress function that reports a few times a second only."""
    last = 0.0

    def progress(done: int, total: int, _: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1 / REPORTS_PER_SECOND or done >= total:
            last = now
            report({"done": done, "total": total})

    return progress


def main(name: str) -> int:
    """Fetch `name`, telling standard output how it goes."""
    from qwen35_mlx.checkpoint.hub import resolve_checkpoint

    def report(said: dict[str, object]) -> None:
        print(json.dumps(said), flush=True)

    try:
        folder = resolve_checkpoint(name, progress=throttled(report))
    except Qwen35Error as error:
        report({"error": str(error)})
        return 2
    report({"folder": str(folder)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
