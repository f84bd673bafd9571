"""The JSON of a request, read within limits of size and time."""

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope

from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.untrusted_json import parse_json

MAX_BYTES = 32 * 2**20
READ_SECONDS = 60.0
# A longer body blocks the event loop for some milliseconds while it is parsed.
_LONG = 2**16


class ClientGoneError(Exception):
    """The client has closed the connection."""


async def read_json(scope: Scope, receive: Receive) -> Mapping[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        ApiError: it is too large or too slow, or it is not a JSON object.
        ClientGoneError: the client has gone.
    """
    try:
        body = await asyncio.wait_for(_read(scope, receive), READ_SECONDS)
    except TimeoutError:
        line = f"the request has not arrived within {READ_SECONDS:.0f} seconds: send it again"
        raise ApiError(line, 408) from None
    value = await asyncio.to_thread(_parse, body) if len(body) > _LONG else _parse(body)
    if not isinstance(value, Mapping):
        raise ApiError("the request is not a JSON object: send one")
    return value


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The body. One that is too large is read to its end: else its sender sees no answer."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BYTES:
            chunks.append(chunk)
        else:
            chunks.clear()
        more = message.get("more_body", False)
    if size > MAX_BYTES:
        line = f"the request has {size:,} bytes, and {MAX_BYTES:,} is the most: shorten it"
        raise ApiError(line, 413)
    return b"".join(chunks)


def _parse(body: bytes) -> Any:
    try:
        return parse_json(body.decode())
    except UnicodeDecodeError:
        raise ApiError("the request is not UTF-8 text: send JSON in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the request is not JSON that can be read: {error}") from None
