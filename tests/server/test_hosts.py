"""The server in two processes of this machine: one serves, the other follows."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qwen35_mlx.library.library import Library
from tests.ranks import start_ranks
from tests.server.serving import ServerProcess, start_server

HERE = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}
QUESTIONS = ("Tell me about cats.", "Write a poem about the sea.")
LONG = f"{'The quick brown fox jumps over the lazy dog. ' * 20} What is 17 + 25?"
SECONDS = 60


def ask(address: str, text: str, tokens: int, session: str | None = None) -> httpx2.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
    body |= {"session": session}
    return httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=SECONDS)


def ask_at_once(
    address: str, texts: tuple[str, ...], tokens: int, session: str | None = None
) -> list[threading.Thread]:
    """Threads with the requests; each has its response as `found` at its end.

    Args:
        session: of the first.
    """

    class Client(threading.Thread):
        found: httpx2.Response

        def __init__(self, text: str):
            super().__init__(daemon=True)
            self._text = text

        def run(self) -> None:
            name = session if self._text == texts[0] else None
            self.found = ask(address, self._text, tokens, name)

    clients: list[threading.Thread] = [Client(text) for text in texts]
    for client in clients:
        client.start()
    return clients


def found(clients: list[Any]) -> list[httpx2.Response]:
    for client in clients:
        client.join(SECONDS)
    return [client.found for client in clients]


def message(response: httpx2.Response) -> Any:
    return response.json()["choices"][0]["message"]


def follower_of(server: ServerProcess) -> int:
    """The process that follows a server."""
    lines = subprocess.check_output(["ps", "-axww", "-o", "pid=,ppid=,args="], text=True)
    for line in lines.splitlines():
        pid, parent, args = line.split(None, 2)
        if int(parent) == server.process.pid and "qwen35_mlx.distributed" in args:
            return int(pid)
    raise AssertionError(lines)


@pytest.fixture
def server(tmp_path: Path) -> Generator[ServerProcess]:
    hosts = tmp_path / "two.json"
    hosts.write_text(json.dumps([HERE, HERE]))
    started = start_server(tmp_path / "home", "--hosts", str(hosts))
    yield started
    started.process.kill()


def test_two_replies_at_once_equal_the_same_one_after_the_other(server: ServerProcess):
    address = server.address
    assert any("2 processes; a sum takes" in line for line in server.lines)
    before = [message(ask(address, text, 40)) for text in QUESTIONS]
    at_once = [message(one) for one in found(ask_at_once(address, QUESTIONS, 40))]
    assert at_once == before
    assert before[0] != before[1]
    assert httpx2.get(f"{address}/health").status_code == 200
    follower = follower_of(server)
    assert server.stop() == 0
    assert any("each of 2 processes needs" in line for line in server.lines)
    with pytest.raises(ProcessLookupError):
        os.kill(follower, 0)


@pytest.mark.parametrize(
    ("number", "what"),
    [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "does not answer")],
)
def test_a_lost_process_is_one_error_for_every_request(
    server: ServerProcess, tmp_path: Path, number: int, what: str
):
    """For those that run and for later ones. What was sent is stored."""
    address, follower = server.address, follower_of(server)
    ask(address, "Hello", 1)
    clients = ask_at_once(address, (LONG, LONG + "?"), 2000, "Trip")
    with Library(tmp_path / "home") as library:
        while not library.list():  # the reply has not begun
            assert all(client.is_alive() for client in clients)
            time.sleep(0.05)
    try:
        os.kill(follower, number)
        responses = [*found(clients), ask(address, "Hello", 1), httpx2.get(f"{address}/health")]
        assert [one.status_code for one in responses] == [503] * 4
        (line,) = {one.json()["error"]["message"] for one in responses}
        assert line.startswith("rank 1 (")
        assert f" {what}: start all processes again" in line
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 15
        assert "".join(server.lines).count(line) == 1
        with Library(tmp_path / "home") as library:
            (listed,) = library.list()
            question, *replies = library.conversation(listed.id).messages
        assert (listed.title, question.content) == ("Trip", LONG)
        assert {(one.state, one.error) for one in replies} <= {("failed", line)}
    finally:
        with suppress(ProcessLookupError):
            os.kill(follower, signal.SIGKILL)


def test_the_first_of_launched_processes_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As `mlx.launch` starts them, with the same arguments."""
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    words = ("--port", "0", "--split", "pipeline")
    first, other = start_ranks(2, tmp_path, "qwen35_mlx.server", *words)
    try:
        deadline, output = time.monotonic() + SECONDS, ""
        while not (address := re.search(r"at (http://\S+:\d+)/v1", output)):
            assert time.monotonic() < deadline, output
            time.sleep(0.05)
            output = (tmp_path / "0.txt").read_text()
        assert message(ask(address[1], QUESTIONS[0], 5))["reasoning_content"]
        first.terminate()
        assert [first.wait(SECONDS), other.wait(SECONDS)] == [0, 0]
    finally:
        for process in (first, other):
            process.kill()
            process.wait()
