"""While the screen is open, only Textual writes to the terminal."""

import os
import stat
import sys
from pathlib import Path

import pytest
from qwen35_chat import terminal_guard
from qwen35_chat.terminal_guard import guarded_terminal

from scripts.support.terminal import Terminal

# The command, with a thread that writes to both descriptors as a library in C++ would; `{then}`
# follows.
NOISY = """
import os, sys, threading, time
from qwen35_chat.main import main
from qwen35_chat.app import ChatApp

mount = ChatApp.on_mount

def on_mount(app):
    mount(app)
    def write():
        time.sleep(0.3)
        for number in (1, 2):
            os.write(number, b"\\x1b[2JNOISE" * 20)
        {then}
    threading.Thread(target=write).start()

ChatApp.on_mount = on_mount
sys.exit(main(["--fake"]))
"""
STOPPED = "app.call_from_thread(app.exit)"
CRASHED = "app.call_later(lambda: 1 / 0)"
ABORTED = "os.abort()"


def run(home: Path, then: str) -> tuple[Terminal, bytes]:
    output: list[bytes] = []
    environment = dict(os.environ) | {"QWEN35_HOME": str(home), "TMPDIR": str(home)}
    with Terminal(
        [sys.executable, "-c", NOISY.format(then=then)],
        environment=environment,
        folder=home,
        on_output=output.append,
    ) as terminal:
        terminal.wait()
        return terminal, b"".join(output)


def test_what_libraries_write_goes_to_a_file_that_is_named_at_the_end(tmp_path: Path) -> None:
    terminal, output = run(tmp_path, STOPPED)
    assert b"NOISE" not in output
    assert "libraries wrote messages meanwhile" in " ".join(terminal.text.split())
    assert 1049 not in terminal.screen.modes


def test_a_crash_still_shows_its_report_on_the_terminal(tmp_path: Path) -> None:
    terminal, output = run(tmp_path, CRASHED)
    assert b"NOISE" not in output
    assert "ZeroDivisionError" in terminal.text
    assert 1049 not in terminal.screen.modes


def test_an_abort_leaves_the_reason_in_the_file(tmp_path: Path) -> None:
    _, output = run(tmp_path, ABORTED)
    assert b"NOISE" not in output
    (log,) = tmp_path.rglob(terminal_guard.FILE_NAME)
    assert b"NOISE" in log.read_bytes()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_the_streams_come_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    with guarded_terminal(tmp_path / "log"):
        os.write(2, b"hidden")
        print("seen", file=sys.stderr)
    assert (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) == before
    os.write(2, b"open")
    err = capfd.readouterr().err
    assert err.startswith("seen\nnote: libraries wrote messages")
    assert err.endswith("open")
    assert (tmp_path / "log").read_bytes() == b"hidden"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "missing folder"])
def test_something_else_in_place_of_the_file_is_left_alone(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    match kind:
        case "folder":
            log.mkdir()
        case "pipe":
            os.mkfifo(log)
        case "link":
            log.symlink_to(tmp_path / "target")
        case _:
            log = tmp_path / "none" / "log"
    with guarded_terminal(log):
        os.write(2, b"dropped")
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "target").exists()


def test_the_file_is_emptied_when_it_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal_guard, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(terminal_guard, "MAX_BYTES", 1000)
    with guarded_terminal(tmp_path / "log"):
        os.write(2, b"x" * 2000)
        while (tmp_path / "log").stat().st_size:
            pass
        os.write(2, b"last")
    capfd.readouterr()
    assert (tmp_path / "log").read_bytes() == b"last"
