"""Progress of long work: what reports it, and the bar that shows it. No MLX."""

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from qwen35_mlx.terminal import print_error

# Work done, work in all (bytes, unless a function says otherwise), what is being done.
Progress = Callable[[int, int, str], None]

# Between two lines, where there is no terminal for a bar.
LINE_SECONDS = 30.0
# The shortest time that a speed is computed from.
_LEAST_SECONDS = 0.1


class ProgressBar:
    """Progress on stderr, from the first report on: a bar on a terminal, else a line at times.

    Use it as a context manager, and as a `Progress`.

    Args:
        title: what is being done.
        in_bytes: whether work is counted in bytes, so that its speed says something.
        then: what is done after that, when the total becomes another; it is not counted in bytes.
    """

    def __init__(self, title: str, *, in_bytes: bool = True, then: str = ""):
        self._title = title
        self._in_bytes = in_bytes
        self._then = then
        self._total: int | None = None
        self._bar: Any = None
        self._first = 0  # done when the bar appeared: that took no time of this run
        self._started = self._shown = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if total != self._total:
            if self._total is not None and self._then:
                self.close()
                self._title, self._in_bytes, self._then = self._then, False, ""
            self._total = total
            self._first, self._started, self._shown = done, now, now
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw(done, total, what)
        elif now - self._shown >= LINE_SECONDS:
            self._shown = now
            print_error(f"{self._title}: {self._line(done, total, now)}, {what}")

    def _draw(self, done: int, total: int, what: str) -> None:
        if self._bar is None:
            from tqdm import tqdm  # a dependency of huggingface_hub, needed by commands only

            form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left{postfix}"
            if self._in_bytes:
                form = (
                    "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed} so far, "
                    "{remaining} left, {rate_fmt}{postfix}]"
                )
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=self._title,
                unit="B",
                unit_scale=True,
                bar_format=form,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(done - self._bar.n)

    def _line(self, done: int, total: int, now: float) -> str:
        """Percentage, speed and time left, in words."""
        parts = [f"{100 * done / max(1, total):.0f} %"]
        seconds = max(_LEAST_SECONDS, now - self._started)
        speed = (done - self._first) / seconds
        if self._in_bytes:
            parts.append(f"{done / 1e9:.2f} of {total / 1e9:.2f} GB at {speed / 1e6:.1f} MB/s")
        if speed > 0:
            parts.append(f"{duration((total - done) / speed)} left")
        return ", ".join(parts)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def duration(seconds: float) -> str:
    """A time such as "12 s", "3 min" or "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
