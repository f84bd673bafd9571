"""The servers in an `mcp.json`, in the form that Cursor and LM Studio write.

{"mcpServers": {
    "files": {"command": "npx", "args": ["-y", "some-server"], "env": {"KEY": "${env:KEY}"}},
    "search": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ..."}}}}
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, open_regular
from qwen35_mlx.json_text import write_json
from qwen35_mlx.untrusted_json import parse_json
from qwen35_mlx.user_paths import shown, user_path

FILE_NAME = "mcp.json"
MAX_BYTES = 1 << 20
MAX_SERVERS = 64
RESERVED = "folder"  # the name of the built-in tools
COMMAND_FIELDS = ("command", "args", "env", "cwd")
ADDRESS_FIELDS = ("url", "headers")
# "type" repeats what the other fields say; "disabled" is how these programs switch a server off.
FIELDS = (*COMMAND_FIELDS, *ADDRESS_FIELDS, "type", "disabled")
TYPES = {
    "stdio": "command",
    "http": "url",
    "streamable-http": "url",
    "streamableHttp": "url",
}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How to reach a server: by a command, or else at an address.

    Attributes:
        env: in addition to the few variables that every server gets.
        cwd: "" for the folder of the chat.
        disabled: it is off until the user switches it on.
    """

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False

    @property
    def origin(self) -> str:
        """What runs where, without secrets: values of variables and headers are left out."""
        return write_json([self.command, list(self.args), self.cwd, self.url])


def read_servers(file: Path, *, required: bool) -> tuple[list[ServerConfig], list[str]]:
    """The servers in a file, and one line for each problem; a server with a problem is left out.

    Args:
        required: a missing file is a problem.
    """
    try:
        text = _text(file)
    except FileNotFoundError:
        return [], [f"{file} does not exist: check the path"] if required else []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return [], [f"{file} cannot be read ({reason}): there are no servers"]
    try:
        entries = _entries(text)
    except ValueError as error:
        return [], [f"{file}: {one_line(error)}: correct it; until then there are no servers"]
    servers: list[ServerConfig] = []
    problems: list[str] = []
    for name, entry in entries.items():
        try:
            server, ignored = _server(name, entry)
            servers.append(server)
            problems += [f"{file}, server {shown(name)}: {line}" for line in ignored]
        except ValueError as error:
            problems.append(f"{file}, server {shown(name)}: {error}; it is left out")
    return servers, problems


def _text(file: Path) -> str:
    with open_regular(file) as opened:
        data = opened.read(MAX_BYTES + 1) or b""
    if len(data) > MAX_BYTES:
        raise OSError(0, f"it has more than {MAX_BYTES:,} bytes")
    return data.decode("utf-8-sig")


def _entries(text: str) -> Mapping[str, Any]:
    """The object `mcpServers`. Raises ValueError."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({one_line(error)})") from None
    entries = value.get("mcpServers") if isinstance(value, dict) else None
    if not isinstance(entries, dict):
        raise ValueError('it has no object "mcpServers"')
    if len(entries) > MAX_SERVERS:
        raise ValueError(f"it has more than {MAX_SERVERS} servers")
    return entries


def _server(name: str, entry: object) -> tuple[ServerConfig, list[str]]:
    """A server, and lines about what is ignored. Raises ValueError with a line for the user."""
    if name == RESERVED or not name.strip():
        raise ValueError("its name is that of the built-in tools" if name else "it has no name")
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    ignored: list[str] = []
    for key in entry:
        if key not in FIELDS:
            similar = get_close_matches(key, FIELDS, 1)
            hint = f"did you mean {similar[0]}?" if similar else "it is ignored"
            ignored.append(f"{shown(key)} is not a field: {hint}")
    kinds = [kind for kind in ("command", "url") if entry.get(kind)]
    if len(kinds) != 1:
        raise ValueError("give it either a command or a url")
    _check_type(entry.get("type"), kinds[0])
    other = ADDRESS_FIELDS if kinds[0] == "command" else COMMAND_FIELDS
    if unused := [key for key in other if key in entry]:
        raise ValueError(f"{unused[0]} does not go with {kinds[0]}")
    server = ServerConfig(
        name,
        command=_home(_string(entry, "command")),
        args=_strings(entry, "args"),
        env=_mapping(entry, "env"),
        cwd=_home(_string(entry, "cwd")),
        url=_string(entry, "url"),
        headers=_mapping(entry, "headers"),
        disabled=entry.get("disabled") is True,
    )
    return _checked(server), ignored


def _check_type(given: object, kind: str) -> None:
    if given == "sse":
        raise ValueError("the transport sse is out of use: give the address for streamable HTTP")
    if given is not None and TYPES.get(str(given)) != kind:
        raise ValueError(f"its type is {shown(str(given))}, and it has a {kind}")


def _checked(server: ServerConfig) -> ServerConfig:
    """The server, if its address and its folder can be right."""
    if server.url and not re.match(r"https?://[^/\s]", server.url):
        raise ValueError(f"{shown(server.url)} is no address that begins with https:// or http://")
    if server.cwd:
        try:
            folder = user_path(server.cwd)
        except Qwen35Error as error:
            raise ValueError(str(error)) from None
        if not folder.is_dir():
            raise ValueError(f"its folder {shown(server.cwd)} does not exist")
    return server


def _string(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text in quotes")
    return _expanded(value)


def _home(path: str) -> str:
    """The path with the home folder for `~`. A command like ./server keeps its dot."""
    return str(Path.home()) + path[1:] if path == "~" or path.startswith("~/") else path


def _strings(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = entry.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} must be a list of texts in quotes")
    return tuple(_expanded(item) for item in value)


def _mapping(entry: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = entry.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"{key} must be an object of texts in quotes")
    return {name: _expanded(item) for name, item in value.items()}


def _expanded(text: str) -> str:
    """The text with the values of `${env:NAME}` and `${userHome}`."""

    def value(match: re.Match[str]) -> str:
        kind, _, name = match[1].partition(":")
        if match[1] == "userHome":
            return str(Path.home())
        if kind != "env":
            raise ValueError(f"{shown(match[0])} is not known here: write the text itself")
        if name not in os.environ:
            raise ValueError(f"the environment has no variable {shown(name)}")
        return os.environ[name]

    return _VARIABLE.sub(value, text)
