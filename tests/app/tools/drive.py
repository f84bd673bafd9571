"""Servers for tests of tools."""

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from qwen35_chat.tools.calls import Server, ServerState, Tool, ToolResult
from qwen35_chat.tools.permissions import Permissions
from qwen35_chat.tools.toolbox import Toolbox

SERVER = Path(__file__).with_name("server.py")


def write_config(file: Path, **servers: Mapping[str, Any]) -> Path:
    """An mcp.json with the test server, and others."""
    test = {"command": sys.executable, "args": ["-S", str(SERVER)]}
    file.write_text(json.dumps({"mcpServers": {"test": test, **servers}}))
    return file


def until(reached: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "never reached"
        time.sleep(0.005)


class ScriptedServer:
    """A server whose calls a test answers.

    Attributes:
        calls: name and arguments of each.
        futures: their results, in the same order.
        slow: it is not ready before `connect`.
    """

    def __init__(self, name: str, *tools: str, description: str = "does it"):
        self.name = name
        self.description = description
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.futures: list[Future[ToolResult]] = []
        self.slow = False
        self._tools = tools
        self.state = ServerState(name, "off")

    def start(self) -> None:
        if self.slow:
            self.state = ServerState(self.name, "starting")
        else:
            self.connect()

    def connect(self) -> None:
        """Be ready."""
        schema = {"type": "object"}
        tools = [Tool(self.name, tool, self.description, schema) for tool in self._tools]
        self.state = ServerState(self.name, "ready", tuple(tools))

    def stop(self) -> None:
        self.state = ServerState(self.name, "off")

    def close(self, seconds: float) -> None:
        self.stop()

    def call(self, name: str, arguments: Mapping[str, Any]) -> Future[ToolResult]:
        self.calls.append((name, arguments))
        self.futures.append(Future())
        return self.futures[-1]


def toolbox(*servers: Server, file: Path | None = None) -> Toolbox:
    """A started toolbox."""
    permissions = Permissions(file)
    permissions.load()
    made = Toolbox({server.state.name: server for server in servers}, permissions)
    made.start()
    return made
