"""A server on a socket, from the first connection to the last."""

import asyncio
import errno
import resource
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.server.application import application
from qwen35_mlx.server.service import MAX_OPEN, Service

# How long replies may go on after a signal, and how long their ends may take to arrive.
GRACE_SECONDS = 2.0
_END_SECONDS = 5
# For the head of the first request of a connection; its body has a time of its own.
HEAD_SECONDS = 30.0
# Those with a request in progress, and some that are unused or ask for /health.
MOST_CONNECTIONS = MAX_OPEN + 64
# For the model, the library, model states and whatever else a server has open.
_OTHER_FILES = 128
# Longer than clients keep unused connections, so that they are not closed as a request is sent.
_KEEP_ALIVE_SECONDS = 75
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a name or an address; port 0 is any free one.

    Raises:
        Qwen35Error: the port is in use, or the address is not this machine's.
    """
    failed = f"the server cannot listen on {host}, port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
        except OSError:
            listening.close()
            raise
    except UnicodeError:  # getaddrinfo encodes names as those of the DNS
        raise Qwen35Error(f"{failed} (this is no name of a host): give another --host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            line = f"port {port} is in use: stop the program that uses it, or give another --port"
            raise Qwen35Error(line) from None
        raise Qwen35Error(f"{failed} ({error.strerror}): give another --host or --port") from None
    return listening


def room_for_connections() -> int:
    """How many connections may be open, after the limit of open files is raised as far as needed.

    It is 256 on macOS unless a shell raises it. Beyond it, no connection could be accepted, nor any
    file opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # the system may have a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        return min(MOST_CONNECTIONS, max(soft - _OTHER_FILES, soft // 2))
    return MOST_CONNECTIONS


class _Connection(H11Protocol):
    """A connection that is closed unless requests arrive. uvicorn waits for them without end.

    It is answered once, also where the body of a request turns out to be no HTTP.

    Args:
        most: connections that may be open; beyond that a new one is closed.
        of_uvicorn: what uvicorn gives a connection.
    """

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *, most: int, **of_uvicorn: Any):
        super().__init__(**of_uvicorn)
        self._most = most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.abort()
        else:
            self._expect_request(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request(_KEEP_ALIVE_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is no HTTP. Where its body is not, its head has had an answer."""
        super().send_400_response(msg)
        if self.cycle is not None:
            self.cycle.disconnected = True  # uvicorn would send that answer, too, and fail

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _expect_request(self, seconds: float) -> None:
        """Close the connection unless the whole head of a request is here in time."""
        self._forget()
        self._timer = self.loop.call_later(seconds, self._close_if_unused)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close_if_unused(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class QuietServer(uvicorn.Server):
    """Serves without a word, and leaves signals to `serve`.

    uvicorn raises a signal again after its end, which would be before states are on disk.

    Args:
        connections: how many may be open.
    """

    def __init__(self, service: Service, connections: int = MOST_CONNECTIONS):
        config = uvicorn.Config(
            application(service),
            http=cast(type[asyncio.Protocol], partial(_Connection, most=connections)),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(GRACE_SECONDS) + _END_SECONDS,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def serve(service: Service, listening: socket.socket) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP.

    Replies in progress may go on for `GRACE_SECONDS` then, and are cancelled; a second signal
    cancels them at once.
    """
    server = QuietServer(service, room_for_connections())
    asyncio.run(_serve(service, server, listening))


async def _serve(service: Service, server: QuietServer, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if service.closing:
            service.cancel_all()
            server.force_exit = True
            return
        service.closing = server.should_exit = True
        loop.call_later(GRACE_SECONDS, service.cancel_all)

    for one in _SIGNALS:
        if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN:  # as nohup sets it
            loop.add_signal_handler(one, stop)
    await server.serve([listening])
