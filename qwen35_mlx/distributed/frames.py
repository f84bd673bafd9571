"""Messages over TCP: a length of four bytes, then an object of JSON of this many bytes."""

import json
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

# The ids of a prompt of the longest context take a few MB.
MOST_BYTES = 64 << 20
# Of the first message of a connection, whose sender is not known yet.
FIRST_BYTES = 4096


class EndedError(Exception):
    """The other side has closed the connection, or is gone."""


class SilentError(EndedError):
    """The other side has neither sent nor taken anything for too long."""


class Connection:
    """One end of a connection. Any thread may send; one receives.

    Args:
        seconds: how long the other side may be silent; None for any time.
    """

    def __init__(self, end: socket.socket, seconds: float | None = None):
        self._socket = end
        self._sending = threading.Lock()
        self.set_patience(seconds)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The system finds out that a machine is gone, also while its process may be silent.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPALIVE", 10), ("TCP_KEEPINTVL", 5)):
            if hasattr(socket, name):
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def set_patience(self, seconds: float | None) -> None:
        """Set how long the other side may be silent."""
        self._socket.settimeout(seconds)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, whole.

        Raises:
            EndedError: the other side is gone or takes nothing.
        """
        content = json.dumps(message, separators=(",", ":")).encode()
        try:
            with self._sending:
                self._socket.sendall(struct.pack(">I", len(content)) + content)
        except TimeoutError:
            raise SilentError from None
        except OSError:
            raise EndedError from None

    def receive(self, most: int = MOST_BYTES) -> Message:
        """Wait for the next message.

        Args:
            most: bytes of it.

        Raises:
            EndedError: there is none, or what comes is no message.
        """
        (length,) = struct.unpack(">I", self._read(4))
        if length > most:
            raise EndedError
        try:
            message = json.loads(self._read(length))
        except (ValueError, RecursionError):
            raise EndedError from None
        if not isinstance(message, dict):
            raise EndedError
        return message

    def close(self) -> None:
        """End the connection; a thread that receives gets an `EndedError`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, count: int) -> bytes:
        content = bytearray()
        try:
            while len(content) < count:
                part = self._socket.recv(min(count - len(content), 1 << 20))
                if not part:
                    raise EndedError
                content += part
        except TimeoutError:
            raise SilentError from None
        except OSError:
            raise EndedError from None
        return bytes(content)
