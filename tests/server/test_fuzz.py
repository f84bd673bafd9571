"""Requests that no client would send get a status below 500, at once, and cost no memory.

QWEN35_FUZZ=5000 runs as many of both kinds.
"""

import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.server.mutations import broken_http, damaged_json

REQUESTS = int(os.environ.get("QWEN35_FUZZ", "300"))
SECONDS = 10
MOST_GROWTH = 32 * 2**20
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)


@pytest.fixture(scope="module")
def server() -> Generator[tuple[int, int]]:
    """The port and the process of a server on a scripted engine."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.scripted_child"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield int(process.stdout.readline()), process.pid
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0


def resident(process: int) -> int:
    """Bytes of a process in memory; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def check_alive(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_damaged_json(server):
    port, process = server
    rng = random.Random(17)
    before = 0
    statuses: set[int] = set()
    for number in range(REQUESTS):
        if number == REQUESTS // 3:
            before = resident(process)
        path, body = damaged_json(rng)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        connection.request("POST", path, body)
        response = connection.getresponse()
        text = response.read()
        assert response.status < 500, (path, body, text)
        assert response.status == 200 or b"message" in text, (path, body, text)
        statuses.add(response.status)
        connection.close()
    assert {200, 400, 404} <= statuses
    check_alive(port)
    assert resident(process) - before < MOST_GROWTH


@pytest.mark.parametrize("path", ["/nowhere", "/v1/completions", "/health"])
def test_a_broken_body_is_answered_once(server, path):
    """That nothing is printed is checked at the end."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server[0]), timeout=SECONDS) as connection:
            connection.sendall(f"{head}zz\r\n{{}}".encode())
            found = b"".join(iter(lambda: connection.recv(65536), b""))
        assert len(_STATUS.findall(found)) == 1, found


def test_broken_http(server):
    port, process = server
    rng = random.Random(18)
    before = 0
    answered = 0
    for number in range(REQUESTS):
        if number == REQUESTS // 3:
            before = resident(process)
        raw = broken_http(rng)
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                found = b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionError:  # the server has closed it before all was sent
                continue
        statuses = [int(status) for status in _STATUS.findall(found)]
        assert all(status < 500 for status in statuses), (raw, found)
        answered += bool(statuses)
    assert answered > REQUESTS // 4
    check_alive(port)
    assert resident(process) - before < MOST_GROWTH
