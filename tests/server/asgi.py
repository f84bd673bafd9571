"""Requests to the application without a network."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

from qwen35_mlx.server.application import application
from qwen35_mlx.server.options import ServerOptions
from qwen35_mlx.server.service import Service
from tests.server.fake_engine import FakeEngine


def make_service(engine: FakeEngine | None = None, **options: Any) -> Service:
    return Service(engine or FakeEngine(), ServerOptions(name="demo", **options), 1_700_000_000)


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    parts: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def comments(self) -> list[str]:
        return [line[2:] for line in self.body.decode().split("\n\n") if line.startswith(": ")]

    @property
    def frames(self) -> list[Any]:
        """The data of the frames of a stream, JSON where it is some."""
        found = []
        for block in self.body.decode().split("\n\n"):
            for line in block.split("\n"):
                if line.startswith("data: "):
                    text = line.removeprefix("data: ")
                    found.append(text if text == "[DONE]" else json.loads(text))
        return found


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    gone_after: asyncio.Event | None = None,
) -> Response | None:
    """One request; None if nothing was sent back.

    Args:
        body: JSON, or bytes as they are.
        gone_after: when the client disconnects; None for never.
    """
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = {"host": "localhost:8080", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8080),
    }
    messages = [{"type": "http.request", "body": raw, "more_body": False}]
    response: list[Response] = []
    never = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await (gone_after or never).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            named = {name.decode(): value.decode() for name, value in message["headers"]}
            response.append(Response(message["status"], named))
        else:
            response[0].parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return response[0] if response else None


async def get(service: Service, path: str, headers: Mapping[str, str] | None = None) -> Response:
    found = await call(application(service), "GET", path, headers=headers)
    assert found is not None
    return found


async def post(
    service: Service, path: str, body: Any, headers: Mapping[str, str] | None = None
) -> Response:
    found = await call(application(service), "POST", path, body, headers)
    assert found is not None
    return found
