"""Servers for tests with clients: a real process, and one on a scripted engine in a thread."""

import asyncio
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_mlx.server.running import QuietServer, listen
from tests.server.asgi import make_service
from tests.server.fake_engine import FakeEngine

START_SECONDS = 60


@dataclass
class ServerProcess:
    """A running server and the lines that it has printed."""

    process: subprocess.Popen[str]
    lines: list[str]

    @property
    def address(self) -> str:
        found = re.search(r"http://\S+:\d+", "".join(self.lines))
        assert found, self.lines
        return found[0]

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """End it with a signal. Returns the exit code."""
        self.process.send_signal(sign)
        self.lines += self.process.communicate(timeout=30)[0].splitlines()
        return self.process.returncode


def start_server(home: Path, *options: str) -> ServerProcess:
    """A server on a free port, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35_mlx.server", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "QWEN35_HOME": str(home), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    stdout = process.stdout

    def read() -> None:
        lines = [stdout.readline()]
        while lines[-1] and "http://" not in lines[-1]:
            lines.append(stdout.readline())
        found.put(lines)

    threading.Thread(target=read, daemon=True).start()
    try:
        lines = found.get(timeout=START_SECONDS)
    except queue.Empty:
        process.kill()
        raise
    started = ServerProcess(process, lines)
    weakref.finalize(started, process.kill)  # of a test that has failed; a second end is none
    return started


@contextmanager
def scripted_server(engine: FakeEngine, **options: Any) -> Generator[str]:
    """The address of a server on a scripted engine, in this process.

    Args:
        options: of `QuietServer`.
    """
    listening = listen("127.0.0.1", 0)
    server = QuietServer(make_service(engine), **options)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
