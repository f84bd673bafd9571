"""Real servers, driven through the command in a terminal. The model calls what it is told to."""

import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from scripts.support.terminal import Terminal
from tests.app.tools.drive import write_config

DOWN, QUIT = "\x1b[B", "\x11"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("the secret")
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("inside")
    return folder


@pytest.fixture
def terminal(home: Path, tmp_path: Path, folder: Path) -> Iterable[Terminal]:
    config = write_config(tmp_path / "servers.json", gone={"command": "/nowhere"}, bad={"args": []})
    kept = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"QWEN35_HOME": str(home), "HOME": str(home), "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "qwen35_chat.main", "--fake"]
    options = ["--mcp-config", str(config), "--tools-folder", str(folder)]
    with Terminal([*command, *options], environment=environment, size=(100, 40)) as terminal:
        terminal.until(lambda: "13 tools" in terminal.text)
        yield terminal
        terminal.write(QUIT)
        assert terminal.wait(15) == 0


def ask(terminal: Terminal, calls: str) -> None:
    """Send calls, and wait for the question about the first."""
    terminal.write(f"{calls}\r")
    terminal.until(lambda: "Run it this once" in terminal.text)
    time.sleep(0.7)  # until keys count


def choose(terminal: Terminal, steps: int = 1) -> None:
    for _ in range(steps):
        terminal.write(DOWN)
        time.sleep(0.05)
    terminal.write("\r")


def words(terminal: Terminal) -> str:
    """The text on the screen without its line breaks."""
    return " ".join(terminal.text.split())


def stop(terminal: Terminal) -> None:
    """Stop the reply to the last result."""
    terminal.write("\x1b")
    terminal.until(lambda: "Stopped." in terminal.text.rpartition("▸")[2])


def test_servers_are_called_and_what_goes_wrong_is_told(terminal: Terminal, folder: Path) -> None:
    assert "server bad: give it either a command or a url" in words(terminal)
    assert "the command /nowhere cannot be run" in words(terminal)

    ask(terminal, 'call test__echo {"text": "hello"}')
    choose(terminal)
    terminal.until(lambda: "Result of test__echo in" in terminal.text)
    stop(terminal)

    for name in ("failing", "huge", "outside", "slow", "leave"):
        terminal.write(f"/tools test__{name} always\r")
        terminal.until(lambda name=name: f"test__{name} always runs" in terminal.text)
    terminal.write("call test__failing\r")
    terminal.until(lambda: "test__failing: the disk is ␛[31mred" in terminal.text)
    stop(terminal)
    terminal.write("call test__huge\r")
    terminal.until(lambda: re.search("Result of test__huge in .* 2 lines", terminal.text))
    stop(terminal)

    # The result of this tool is the next call of the model: it reads outside the folder.
    ask(terminal, "call test__outside")
    assert "Run read_file of folder?" in terminal.text
    choose(terminal)
    terminal.until(lambda: "folder__read_file: the path leaves the folder" in terminal.text)
    assert "the secret" not in terminal.text
    stop(terminal)

    terminal.write("call test__slow\r")
    terminal.until(lambda: "Running slow" in terminal.text)
    terminal.write("\x1b")
    terminal.until(lambda: "test__slow: the user stopped this call" in terminal.text)
    terminal.until(lambda: "Esc stops" not in terminal.text)

    terminal.write("call test__leave\r")
    terminal.until(lambda: "test__leave: Connection closed" in terminal.text)
    terminal.until(lambda: "its last line: the server has had enough" in terminal.text)
    terminal.until(lambda: " 2 tools" in terminal.text)
    stop(terminal)
