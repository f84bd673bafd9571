"""A chat in two processes of this machine, in a real terminal."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scripts.support.terminal import Terminal
from tests.app.real_terminal import LOADED, QUIT, chat

HERE = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}
SECONDS = 60


@pytest.fixture
def hosts(tmp_path: Path) -> str:
    file = tmp_path / "two.json"
    file.write_text(json.dumps([HERE, HERE]))
    return str(file)


def ask(terminal: Terminal, message: str, reply: str) -> None:
    terminal.write(f"{message}\r")
    terminal.until(lambda: reply in terminal.text, SECONDS)


def follower(terminal: Terminal) -> int:
    """The process that follows the one in the terminal."""
    lines = subprocess.check_output(["ps", "-axo", "pid=,ppid="], text=True).splitlines()
    parents = [tuple(map(int, line.split())) for line in lines]
    (found,) = [pid for pid, parent in parents if parent == terminal.pid and is_follower(pid)]
    return found


def is_follower(pid: int) -> bool:
    args = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True
    )
    return "qwen35_mlx.distributed" in args.stdout


def test_a_chat_in_two_processes_goes_on_alone_when_one_is_killed(tmp_path: Path, hosts: str):
    """And is resumed by both before."""
    with chat(tmp_path, "--hosts", hosts) as terminal:
        terminal.until(lambda: LOADED in terminal.text and "2 processes" in terminal.text, SECONDS)
        ask(terminal, "What is 17 + 25?", "42")
        terminal.write(QUIT)
        assert terminal.wait() == 0
        assert "--resume 1" in terminal.text
    with chat(tmp_path, "--hosts", hosts, "--resume", "1") as terminal:
        terminal.until(lambda: LOADED in terminal.text and "2 processes" in terminal.text, SECONDS)
        os.kill(follower(terminal), signal.SIGKILL)
        terminal.until(lambda: "rank 1 (" in terminal.text and "alone?" in terminal.text, SECONDS)
        time.sleep(1)
        terminal.write("\r")
        terminal.until(lambda: "alone?" not in terminal.text and LOADED in terminal.text, SECONDS)
        ask(terminal, "What is 3 + 4?", "7")
        terminal.write(QUIT)
        assert terminal.wait() == 0
