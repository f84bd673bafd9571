"""Connections on which nothing arrives, and too many of them."""

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from qwen35_mlx.server import running
from qwen35_mlx.session.events import Answer
from tests.server.fake_engine import FakeEngine, reply
from tests.server.serving import scripted_server

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_without_a_whole_head_is_closed(sent, monkeypatch):
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.2)
    with scripted_server(FakeEngine()) as address, connect(address) as silent:
        silent.sendall(sent)
        assert silent.recv(100) == b""


def test_a_used_connection_is_closed_when_no_whole_head_follows(monkeypatch):
    """uvicorn's own limit ends with the first byte."""
    monkeypatch.setattr(running, "_KEEP_ALIVE_SECONDS", 0.3)
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with scripted_server(FakeEngine()) as address, connect(address) as used:
        used.sendall(request)
        assert used.recv(1000).startswith(b"HTTP/1.1 200")
        used.sendall(request[:10])
        while used.recv(1000):
            pass


def test_a_long_reply_is_not_cut(monkeypatch):
    for name in ("HEAD_SECONDS", "_KEEP_ALIVE_SECONDS"):
        monkeypatch.setattr(running, name, 0.1)
    engine = FakeEngine(lambda _: [0.5, *reply(Answer("Hello"))])
    with scripted_server(engine) as address:
        found = httpx2.post(f"{address}/v1/chat/completions", json=HELLO)
    assert found.json()["choices"][0]["message"]["content"] == "Hello"


def test_too_many_connections_are_closed_and_others_go_on():
    with scripted_server(FakeEngine(), connections=2) as address:
        with connect(address), connect(address), connect(address) as third:
            assert is_closed(third)
        time.sleep(0.1)
        assert httpx2.get(f"{address}/health").status_code == 200


@contextmanager
def server_with_files(soft: int, hard: int) -> Generator[str]:
    """The address of a server that may open so many files; `hard`: that it may raise this to."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    module = "import runpy; runpy.run_module('tests.server.scripted_child', run_name='__main__')"
    command = [sys.executable, "-c", f"{limit}; {module}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@pytest.mark.parametrize("hard", [40, 2000])
def test_connections_stay_below_the_limit_of_open_files_which_is_raised_if_it_can_be(hard):
    """Without room for a file, new connections would wait and nothing could be read."""
    with server_with_files(40, hard) as address, ExitStack() as stack:
        opened = [stack.enter_context(connect(address)) for _ in range(45)]
        if hard == 40:
            assert is_closed(opened[-1])
            opened[0].close()
        assert httpx2.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize(
    ("soft", "hard", "room", "raised"),
    [
        (256, resource.RLIM_INFINITY, 320, 448),
        (256, 1000, 320, 448),
        (256, 256, 128, 256),
        (100, 100, 50, 100),
        (10_000, 10_000, 320, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 320, None),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_needed(monkeypatch, soft, hard, room, raised):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    assert running.room_for_connections() == room
    assert given == ([] if raised is None else [(raised, hard)])


def test_a_limit_that_the_system_does_not_raise_is_kept_to(monkeypatch):
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert running.room_for_connections() == 128


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True
