"""The body of a request, read within limits of size and time, and the end of its connection."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.untrusted_json import parse_json

MAX_BYTES = 32 * 2**20
READ_SECONDS = 60.0
# A longer body would block the event loop for some milliseconds.
LONG_BYTES = 2**16

_T = TypeVar("_T")


class ClientGoneError(Exception):
    """The client has closed the connection."""


async def read_body(receive: Receive, read: Callable[[Mapping[str, Any]], _T]) -> _T:
    """What `read` makes of the JSON object in the body of a request.

    Args:
        read: called in another thread if the body is long. May raise an ApiError, too.

    Raises:
        ApiError: the body is too large or too slow, or it is not a JSON object.
        ClientGoneError: the client has gone.
    """
    try:
        body = await asyncio.wait_for(_read(receive), READ_SECONDS)
    except TimeoutError:
        line = f"the request has not arrived within {READ_SECONDS:.0f} seconds: send it again"
        raise ApiError(line, 408) from None

    def read_parsed() -> _T:
        value = _parse(body)
        if not isinstance(value, Mapping):
            raise ApiError("the request is not a JSON object: send one")
        return read(value)

    return await asyncio.to_thread(read_parsed) if len(body) > LONG_BYTES else read_parsed()


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work on a request whose body is read. It is cancelled with the client.

    Raises:
        ClientGoneError: the client has gone.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, gone):
            task.cancel()
            with suppress(BaseException):
                await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive) -> bytes:
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
