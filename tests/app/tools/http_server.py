"""The test server's tools by streamable HTTP, on a free port that is printed. By the `mcp` package.

Every request needs the header `X-Key: right`.
"""

import asyncio
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("http")


@server.tool()
def echo(text: str) -> str:
    """Returns the text."""
    return text


@server.tool()
async def slow() -> str:
    """Sleeps for a minute."""
    await asyncio.sleep(60)
    return "slept"


def with_key(app: ASGIApp) -> ASGIApp:
    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (b"x-key", b"right") not in scope["headers"]:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return checked


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    app = with_key(server.streamable_http_app())
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])
