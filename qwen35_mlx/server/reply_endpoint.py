"""An endpoint that replies: from a request's JSON to a response, whole or as a stream."""

import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from qwen35_mlx import crash
from qwen35_mlx.server.bodies import ClientGoneError, read_body, while_connected
from qwen35_mlx.server.errors import ApiError, of_failure
from qwen35_mlx.server.exchange import Exchange
from qwen35_mlx.server.replies import ClientCall, Frame, Interface, ReplyWriter, comment
from qwen35_mlx.server.service import Service
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loading,
    Notice,
    PrefillProgress,
    Queued,
    Thinking,
    ToolCall,
    Written,
)
from qwen35_mlx.terminal import print_error
from qwen35_mlx.text.reply_events import EventList

# A stream begins at the latest after this time: until then, an error has a status of its own.
PATIENCE_SECONDS = 2.0
# A connection that is silent for longer may be closed by something on its way.
QUIET_SECONDS = 10.0
COMMENT_SECONDS = 1.0
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ReplyEndpoint:
    """An ASGI application that replies in the form of one interface.

    A reply is cancelled when its client disconnects.
    """

    def __init__(self, service: Service, interface: Interface):
        self._service = service
        self._interface = interface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = _Begun(send)
        try:
            call = await read_body(receive, self._interface.read)
            self._service.check_model(call.model)
            await self._reply(call, scope, receive, begun)
        except ClientGoneError:
            return
        except Exception as error:
            await self._refuse(api_error(error), scope, receive, begun)

    async def _refuse(
        self, error: ApiError, scope: Scope, receive: Receive, begun: "_Begun"
    ) -> None:
        """Answer with an error. A stream that has begun just ends."""
        if not begun.stream:
            response = JSONResponse(self._interface.error(error), error.status)
            await response(scope, receive, begun.send)

    async def _reply(
        self, call: ClientCall, scope: Scope, receive: Receive, begun: "_Begun"
    ) -> None:
        """Reply.

        Raises:
            ClientGoneError: the client has gone.
        """
        exchange = Exchange()
        client = client_name(scope, call.user)
        with self._service.submitted(
            self._service.engine.submit, call.request, client, exchange.deliver
        ):
            writer = call.writer(self._service.options.name, int(time.time()))
            await while_connected(
                receive,
                _stream(writer, exchange, begun)
                if call.stream
                else _whole(writer, exchange, scope, receive, begun),
            )


def api_error(error: Exception) -> ApiError:
    """The error that a client gets. A fault of the server is reported on standard error, too."""
    if isinstance(error, ApiError):
        return error
    line = f"the server hit an error of its own ({crash.summary(error)}): please report it"
    print_error(line)
    return ApiError(line, 500)


def client_name(scope: Scope, user: str | None) -> str:
    """Who asks, for the fairness among clients: the user it names, or its address and program."""
    address = scope["client"][0] if scope.get("client") else ""
    return f"{address} {user or Headers(scope=scope).get('user-agent', '')}"


class _Begun:
    """Sends a response, and remembers whether it has begun.

    Attributes:
        stream: whether it is a stream, and its head has been sent.
    """

    def __init__(self, send: Send):
        self.send = send
        self.stream = False

    async def write(self, data: bytes, more: bool = True) -> None:
        """Send a part of the stream; the first one with its head."""
        if not self.stream:
            self.stream = True
            start = {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
            await self.send(start)
        await self.send({"type": "http.response.body", "body": data, "more_body": more})


async def _whole(
    writer: ReplyWriter, exchange: Exchange, scope: Scope, receive: Receive, begun: _Begun
) -> None:
    """Send a reply as one object.

    Raises:
        ApiError: there is none.
    """
    content = EventList()
    while True:
        for event in await exchange.take(QUIET_SECONDS):
            match event:
                case Answer(text) | Thinking(text):
                    content.add(type(event), text)
                case ToolCall():
                    content.add_call(event)
                case Done():
                    response = JSONResponse(writer.whole(content.joined(), event))
                    await response(scope, receive, begun.send)
                    return
                case Failed() | Cancelled():
                    raise last_error(event)
                case _:
                    pass


async def _stream(writer: ReplyWriter, exchange: Exchange, begun: _Begun) -> None:
    """Send a reply as a stream.

    Raises:
        ApiError: there is none, and nothing was sent yet.
    """
    pieces = _Pieces(writer)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not pieces.ended:
        wait = QUIET_SECONDS if begun.stream else max(deadline - time.monotonic(), 0)
        events = await exchange.take(wait)
        data = b"".join(frame.encode() for frame in pieces.of(events))
        if pieces.error is not None and not begun.stream:
            raise pieces.error
        if not events or (begun.stream and not data):
            data += pieces.comment(quiet=not events)
        if data or pieces.ended:
            await begun.write(data, more=not pieces.ended)


class _Pieces:
    """The frames of a stream, from its events.

    Attributes:
        ended: whether the last event has come.
        error: that ended it; None without one.
    """

    def __init__(self, writer: ReplyWriter):
        self.ended = False
        self.error: ApiError | None = None
        self._writer = writer
        self._started = False
        self._news = "waiting"
        self._told_at = 0.0

    def of(self, events: Iterable[Event]) -> list[Frame]:
        """The frames for some events."""
        return [frame for event in events for frame in self._of_one(event)]

    def comment(self, quiet: bool) -> bytes:
        """What is being done. At most one a second, unless the connection is quiet."""
        now = time.monotonic()
        if not quiet and now - self._told_at < COMMENT_SECONDS:
            return b""
        self._told_at = now
        return comment(self._news)

    def _of_one(self, event: Event) -> list[Frame]:
        match event:
            case Answer() | Thinking() | ToolCall():
                return self._start(None) + self._writer.add(event)
            case Done():
                self.ended = True
                return self._start(None) + self._writer.end(event)
            case Failed() | Cancelled():
                self.ended, self.error = True, last_error(event)
                return self._writer.fail(self.error)
            case PrefillProgress(done, total):
                self._news = f"reading the prompt {done / max(total, 1):.0%}"
                return self._start(event)
            case Queued(place):
                self._news = f"queued, place {place}"
            case Loading(what, fraction):
                share = "" if fraction is None else f" {fraction:.0%}"
                self._news = f"loading {what}{share}"
            case Written(tokens):
                self._news = f"writing, {tokens} tokens"
            case Notice(message):
                self._news = message
            case _:
                pass
        return []

    def _start(self, prompt: PrefillProgress | None) -> list[Frame]:
        if self._started:
            return []
        self._started = True
        return self._writer.start(prompt)


def last_error(event: Failed | Cancelled) -> ApiError:
    """The error of a request that has ended without a reply."""
    if isinstance(event, Cancelled):
        return ApiError("the reply was cancelled: the server is closing", 503)
    return of_failure(event.kind, event.message)
