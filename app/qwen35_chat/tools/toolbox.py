"""All tools of a chat: what is offered to the model, and what the user allows."""

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, count
from operator import is_
from pathlib import Path
from typing import Any

from qwen35_chat.tools import config, permissions
from qwen35_chat.tools.calls import Server, ServerState, Tool, ToolResult
from qwen35_chat.tools.event_loop import EventLoopThread
from qwen35_chat.tools.folder import FolderServer
from qwen35_chat.tools.mcp_server import McpServer
from qwen35_chat.tools.permissions import Permission, Permissions
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import make_private
from qwen35_mlx.user_paths import absolute_user_path, shown

CLOSE_SECONDS = 5.0  # a server has 2 to end, and 2 more to end after SIGTERM


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool under the name that the model calls it by."""

    name: str
    tool: Tool

    def for_model(self) -> dict[str, Any]:
        """Its description, as templates take it."""
        function = {
            "name": self.name,
            "description": self.tool.description,
            "parameters": dict(self.tool.schema),
        }
        return {"type": "function", "function": function}


class Toolbox:
    """The servers, and the permissions for their tools. All calls come from one thread.

    Args:
        servers: by name.
        off: names of the servers that are off until the user switches them on.
        loop: of the servers that have one; closed with them.

    Attributes:
        permissions: they are stored with `permissions.save`, which may wait for the disk.
    """

    def __init__(
        self,
        servers: Mapping[str, Server],
        permissions: Permissions,
        *,
        off: Sequence[str] = (),
        loop: EventLoopThread | None = None,
    ):
        self.permissions = permissions
        self._servers = servers
        self._off = off
        self._loop = loop
        self._failed: set[str] = set()
        self._seen: tuple[ServerState, ...] = ()
        self._listed: tuple[OfferedTool, ...] = ()
        self._offered: tuple[OfferedTool, ...] = ()
        self._version = -1  # of the permissions, for what is offered

    def start(self) -> None:
        """Begin to connect to the servers that are not off."""
        for name, server in self._servers.items():
            if not self.permissions.off(name, name in self._off):
                server.start()

    @property
    def states(self) -> tuple[ServerState, ...]:
        return tuple(server.state for server in self._servers.values())

    @property
    def starting(self) -> bool:
        """A server has not answered yet."""
        return any(state.status == "starting" for state in self.states)

    def failures(self) -> list[str]:
        """One line for each server that has failed since the last call."""
        failed = {state.name: state.error for state in self.states if state.status == "failed"}
        new = failed.keys() - self._failed
        self._failed = set(failed)
        return [f"The tools of {shown(name)}: {failed[name]}" for name in sorted(new)]

    def listed(self) -> tuple[OfferedTool, ...]:
        """All tools of the servers that are connected.

        The same tuple as before, as long as nothing has changed.
        """
        states = self.states
        if len(states) != len(self._seen) or not all(map(is_, states, self._seen)):
            self._seen, self._listed = states, _named(states)
            self._version = -1
        return self._listed

    def offered(self) -> tuple[OfferedTool, ...]:
        """The tools that the model may call: all but those that never run.

        The same tuple as before, as long as nothing has changed.
        """
        listed, version = self.listed(), self.permissions.version
        if version != self._version:
            self._version = version
            allowed = (offer for offer in listed if self.permissions.of(offer.tool) != "never")
            self._offered = tuple(allowed)
        return self._offered

    def find(self, name: str) -> Tool | None:
        """The offered tool of this name."""
        return next((offer.tool for offer in self.offered() if offer.name == name), None)

    def call(self, tool: Tool, arguments: Mapping[str, Any]) -> Future[ToolResult]:
        return self._servers[tool.server].call(tool.name, arguments)

    # What the user switches

    def switch(self, server: str, *, on: bool) -> None:
        """Switch a server on or off.

        Raises:
            Qwen35Error: there is none of this name.
        """
        if server not in self._servers:
            raise Qwen35Error(f"there is no server {shown(server)}: /tools lists them")
        self.permissions.switch(server, off=not on)
        if on:
            self._servers[server].start()
        else:
            self._servers[server].stop()

    def allow(self, tool: Tool, permission: Permission) -> None:
        self.permissions.set(tool, permission)

    def close(self) -> None:
        """End all servers, waiting a little for them."""
        for server in self._servers.values():
            server.stop()
        end = time.monotonic() + CLOSE_SECONDS
        for server in self._servers.values():
            server.close(max(end - time.monotonic(), 0.1))
        if self._loop is not None:
            self._loop.close(1.0)


def plain_name(server: str, tool: str) -> str:
    """The name of a tool for the model, unless another tool has it already."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}__{tool}")


def _named(states: Sequence[ServerState]) -> tuple[OfferedTool, ...]:
    """The tools of all servers, each with a name for the model that no other has."""
    found: dict[str, OfferedTool] = {}
    for tool in (tool for state in states for tool in state.tools):
        plain = plain_name(tool.server, tool.name)
        numbered = chain([plain], (f"{plain}_{number}" for number in count(2)))
        name = next(name for name in numbered if name not in found)
        found[name] = OfferedTool(name, tool)
    return tuple(found.values())


def open_toolbox(
    settings: Path | None, mcp_config: str | None, folder: str
) -> tuple[Toolbox | None, list[str]]:
    """The toolbox that a chat is configured with, not started; None if there are no tools.

    Args:
        settings: the folder of the settings, with `mcp.json` and `tools.json`; None for none.
        mcp_config: another file instead of that `mcp.json`.
        folder: that the built-in tools read; "" for none.

    Returns:
        the toolbox, and one line for each problem.
    """
    problems: list[str] = []
    found: list[config.ServerConfig] = []
    if mcp_config is not None:
        try:
            found, problems = config.read_servers(absolute_user_path(mcp_config), required=True)
        except Qwen35Error as error:
            problems = [str(error)]
    elif settings is not None:
        make_private(settings / config.FILE_NAME)
        found, problems = config.read_servers(settings / config.FILE_NAME, required=False)
    servers: dict[str, Server] = {}
    if folder:
        try:
            servers[config.RESERVED] = FolderServer(_folder(folder))
        except Qwen35Error as error:
            problems.append(str(error))
    loop = EventLoopThread() if found else None
    if loop is not None:
        servers |= {server.name: McpServer(server, loop) for server in found}
    if not servers:
        return None, problems
    allowed = Permissions(settings / permissions.FILE_NAME if settings is not None else None)
    try:
        allowed.load()
    except Qwen35Error as error:
        problems.append(str(error))
    off = [server.name for server in found if server.disabled]
    return Toolbox(servers, allowed, off=off, loop=loop), problems


def _folder(word: str) -> Path:
    folder = absolute_user_path(word)
    if not folder.is_dir():
        raise Qwen35Error(f"the tools' folder {shown(word)} does not exist: name another")
    return folder
