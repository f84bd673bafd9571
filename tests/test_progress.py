"""The bar on a terminal, and lines where there is none."""

import sys
from io import StringIO

import pytest

from qwen35_mlx import progress
from qwen35_mlx.progress import ProgressBar, duration


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, patch: pytest.MonkeyPatch):
        self.now = 1000.0
        patch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_terminal_shows_bytes_speed_and_the_time_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with ProgressBar("Converting") as bar:
        bar(0, 2_000_000_000, "a")
        bar(1_000_000_000, 2_000_000_000, "b")
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("Converting:  50% |")
    assert "1.00G/2.00G" in last
    assert "left" in last
    assert "B/s" in last
    assert ", b]" in last


def test_work_that_is_not_bytes_has_no_speed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with ProgressBar("Comparing", in_bytes=False) as bar:
        bar(1, 4, "layer 1")
    last = terminal.getvalue().split("\r")[-1]
    assert "25% |" in last
    assert "B/s" not in last


def test_the_measurement_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with ProgressBar("Converting", then="Measuring") as bar:
        bar(2_000_000, 2_000_000, "a")
        bar(1, 8, "layer 1")
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("Measuring:  12% |")
    assert "B/s" not in last


def test_without_a_terminal_there_is_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = Clock(monkeypatch)
    with ProgressBar("Converting") as bar:
        # Half of it was done by an earlier process, in no time of this one.
        for second in range(62):
            clock.now = 1000 + second
            bar(2_000_000_000 + second * 10_000_000, 4_000_000_000, "model.\nnorm")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Converting: 58 %, 2.30 of 4.00 GB at 10.0 MB/s, 3 min left, model.␊norm",
        "Converting: 65 %, 2.60 of 4.00 GB at 10.0 MB/s, 2 min left, model.␊norm",
    ]


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    with ProgressBar("Converting") as bar:
        bar(1, 2, "a")


def test_durations():
    assert [duration(s) for s in (0.4, 59, 200, 3599, 7500)] == [
        "0 s", "59 s", "3 min", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip
