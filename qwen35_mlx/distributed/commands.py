"""Commands of the first process, as one of the others gets them, and signs of life back."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from qwen35_mlx.distributed.frames import Connection, EndedError, Message
from qwen35_mlx.distributed.link import CONNECT_SECONDS
from qwen35_mlx.errors import Qwen35Error

BEAT_SECONDS = 0.5
# A process without commands waits for so long before it waits for what it computes.
SETTLE_SECONDS = 5.0
# Commands that do not take long: others may load a model, or download it.
PASSES = ("pass", "together", "embed", "logits", "head")


class Leader:
    """The first process, as one of the others obeys it.

    Args:
        ended: called in another thread once the first process is gone.
    """

    def __init__(self, connection: Connection, ended: Callable[[], None]):
        self._connection = connection
        self._ended = ended
        self._commands: deque[Message] = deque()
        self._arrived = threading.Semaphore(0)
        self._number = 0  # of commands so far
        self._at: int | None = None  # the number of the pass that is being computed
        for work in (self._listen, self._beat):
            threading.Thread(target=work, name="leader", daemon=True).start()

    @classmethod
    def connect(
        cls,
        address: str,
        port: int,
        token: str,
        about: Mapping[str, Any],
        ended: Callable[[], None],
    ) -> "Leader":
        """Connect to the first process.

        Args:
            about: this process: rank, host and so on.

        Raises:
            Qwen35Error: it cannot be reached.
        """
        try:
            end = socket.create_connection((address, port), CONNECT_SECONDS)
        except OSError as error:
            raise Qwen35Error(
                f"the first process cannot be reached at {address}, port {port} ({error}): see "
                "whether a firewall is in the way"
            ) from None
        connection = Connection(end)
        with suppress(EndedError):
            connection.send({"token": token, **about})
        return cls(connection, ended)

    def next_command(self, settle: Callable[[], object] = lambda: None) -> Message:
        """Wait for the next command.

        Args:
            settle: waits until all is computed; called if none comes for a while.
        """
        if not self._arrived.acquire(timeout=SETTLE_SECONDS):
            settle()
            self._at = None
            self._arrived.acquire()
        command = self._commands.popleft()
        self._number += 1
        self._at = self._number if command["call"] in PASSES else None
        return command

    def reply(self, command: Message, **fields: Any) -> None:
        """Reply to a command that wants it."""
        self._send({"reply": command["reply"], **fields})

    def notice(self, line: str) -> None:
        """Show a line to the user."""
        self._send({"notice": line})

    def fail(self, line: str) -> None:
        """Report that this process cannot go on."""
        self._send({"failed": line})

    def _send(self, message: Message) -> None:
        with suppress(EndedError):  # `_listen` finds out, too
            self._connection.send(message)

    def _listen(self) -> None:
        try:
            while True:
                self._commands.append(self._connection.receive())
                self._arrived.release()
        except EndedError:
            self._ended()

    def _beat(self) -> None:
        with suppress(EndedError):
            while True:
                self._connection.send({"at": self._at})
                time.sleep(BEAT_SECONDS)
