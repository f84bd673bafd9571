"""One server process with the demo model, and the official clients connected to it."""

import signal
from collections.abc import Generator
from typing import Any

import anthropic
import openai
import pytest

from tests.server.serving import ServerProcess, start_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    started = start_server(tmp_path_factory.mktemp("home"), "--alias", "gpt-*")
    yield started
    assert started.stop(signal.SIGINT) == 0, started.lines
    assert started.lines[-1].startswith("Stopped: ")
    assert not any("Traceback" in line for line in started.lines)


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Any:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="session")
def claude(server: ServerProcess) -> Any:
    return anthropic.Anthropic(base_url=server.address, api_key="any", max_retries=0)
