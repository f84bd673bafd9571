"""What a tool is, and what comes of a call."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from qwen35_mlx.json_text import write_json

MAX_RESULT_BYTES = 64 << 10
ERROR = "Error: "  # begins the result of a call that has failed

Status = Literal["off", "starting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool has answered: text for the model."""

    text: str
    error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of a server.

    Attributes:
        server, name: as the user's configuration and the server name them.
        description, schema: for the model; the schema is that of the arguments, in JSON schema.
        origin: what the server runs or where it is; with the rest it makes the fingerprint.
    """

    server: str
    name: str
    description: str
    schema: Mapping[str, Any]
    origin: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that the user has agreed to: the program, or what it promises."""
        parts = [self.origin, self.server, self.name, self.description, dict(self.schema)]
        return hashlib.sha256(write_json(parts).encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server, as far as it is known.

    Attributes:
        error: one line; "" unless it has failed.
    """

    name: str
    status: Status
    tools: tuple[Tool, ...] = ()
    error: str = ""


class Server(Protocol):
    """Something with tools. Its methods return at once and are called from one thread."""

    @property
    def state(self) -> ServerState:
        """The same object as before, as long as nothing has changed."""
        ...

    def start(self) -> None:
        """Begin to connect, unless it is connected."""
        ...

    def stop(self) -> None:
        """End the connection."""
        ...

    def call(self, name: str, arguments: Mapping[str, Any]) -> Future[ToolResult]:
        """Call a tool. Cancelling the future gives up on it. It never holds an exception."""
        ...

    def close(self, seconds: float) -> None:
        """Stop, and wait for the end for at most this long."""
        ...


def cut(text: str, limit: int = MAX_RESULT_BYTES) -> str:
    """A text of at most about `limit` bytes; a line at its end says what was left out."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    kept = data[:limit].decode("utf-8", "ignore")
    return f"{kept}\n[Cut: these are the first {limit:,} of {len(data):,} bytes]"
