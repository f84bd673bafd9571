"""Connections on which nothing arrives, and too many of them."""

import socket
import time

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


def test_too_many_connections_are_closed_and_others_go_on(monkeypatch):
    monkeypatch.setattr(running, "MOST_CONNECTIONS", 2)
    with scripted_server(FakeEngine()) as address:
        with connect(address), connect(address), connect(address) as third:
            assert is_closed(third)
        time.sleep(0.1)
        assert httpx2.get(f"{address}/health").status_code == 200


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True
