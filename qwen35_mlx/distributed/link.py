"""Control connections: commands from the first process to the others, and signs of life back.

The first process listens, and one thread for each of the others notices when it is gone. MLX can
wait for ever in an exchange with a process that is gone, so nothing here depends on the thread that
computes.
"""

import hmac
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from qwen35_mlx.distributed.frames import (
    FIRST_BYTES,
    Connection,
    EndedError,
    Message,
    SilentError,
)
from qwen35_mlx.errors import Qwen35Error

# Without a sign of life for this long, a process is lost.
LOST_SECONDS = 5.0
# Of one pass of the network: a chunk of a prompt takes a minute or two on the slowest machines.
STALLED_SECONDS = 600.0
# How long it takes at most to notice that a connection was closed.
_NOTICE_SECONDS = 1.0
# How long the others may take to connect, once all have joined MLX's group.
CONNECT_SECONDS = 30.0


class ProcessLostError(Qwen35Error):
    """One of the processes that run the network has ended, hangs or has failed."""


class Listener:
    """Where the first process waits for the others.

    Attributes:
        port: on its address.
        token: 64 hexadecimal digits that the others know.
    """

    def __init__(self, address: str):
        try:
            family = socket.getaddrinfo(address, 0)[0][0]
            self._socket = socket.create_server((address, 0), family=family)
        except OSError as error:
            raise Qwen35Error(
                f"{address} is not an address of this machine ({error.strerror}): name it first "
                "in the list of hosts"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_hex(32)

    def accept(self, ranks: int) -> list[tuple[Connection, Message]]:
        """The connections of the other processes, by rank, and how they introduced themselves.

        Raises:
            Qwen35Error: one does not connect.
        """
        found: dict[int, tuple[Connection, Message]] = {}
        deadline = time.monotonic() + CONNECT_SECONDS
        with self._socket:
            while len(found) < ranks - 1:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    end, _ = self._socket.accept()
                except OSError:
                    missing = next(rank for rank in range(1, ranks) if rank not in found)
                    raise Qwen35Error(
                        f"process {missing} does not connect to port {self.port} of this machine: "
                        "see whether a firewall is in the way"
                    ) from None
                connection = Connection(end, LOST_SECONDS)
                with suppress(EndedError):
                    first = connection.receive(FIRST_BYTES)
                    token, rank = str(first.get("token")), first.get("rank")
                    if hmac.compare_digest(token.encode(), self.token.encode()):
                        assert isinstance(rank, int)
                        found[rank] = connection, first
                        continue
                connection.close()
        return [found[rank] for rank in range(1, ranks)]


class Followers:
    """The other processes, as the first one commands them.

    Commands are sent by one thread; any thread may `drop` and look at `lost`.

    Args:
        names: of each, for lines to the user.
        notice: called with lines that they have for the user, in any thread.
        when_lost: called once in a thread of its own, with `lost`.

    Attributes:
        names: as given.
        lost: a line about the first that was lost; "" while all are there.
        stalled: a line about those that compute one pass for too long; "" for none.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        names: Sequence[str],
        notice: Callable[[str], None],
        when_lost: Callable[[str], None],
    ):
        self._when_lost = when_lost
        self._connections = list(connections)
        self.names = list(names)
        self._notice = notice
        self._closed = False
        self._number = 0
        self._dropped: deque[int] = deque()
        self._changed = threading.Condition()
        self._replies: dict[tuple[int, int], Message] = {}
        self.lost = self.stalled = ""
        self._at: list[tuple[int, float] | None] = [None] * len(self._connections)
        for i in range(len(self._connections)):
            threading.Thread(target=self._listen, args=(i,), name="follower", daemon=True).start()

    @property
    def count(self) -> int:
        return len(self._connections)

    def new_number(self) -> int:
        """A number that no other object has."""
        self._number += 1
        return self._number

    def drop(self, number: int) -> None:
        """Have the others forget an object, before the next command."""
        self._dropped.append(number)

    def send(self, call: str, **fields: Any) -> None:
        """Send a command to all.

        Raises:
            ProcessLostError: one is lost.
        """
        dropped: list[int] = []
        while self._dropped:
            dropped.append(self._dropped.popleft())
        if dropped:
            self._send({"call": "drop", "objects": dropped})
        self._send({"call": call, **fields})

    def ask(self, call: str, **fields: Any) -> list[Message]:
        """Send a command to all, and wait for their replies, by rank.

        Raises:
            ProcessLostError: one is lost.
            Qwen35Error: what one of them reports.
        """
        number = self.new_number()
        self.send(call, reply=number, **fields)
        wanted = [(i, number) for i in range(self.count)]
        with self._changed:
            self._changed.wait_for(lambda: self.lost or all(one in self._replies for one in wanted))
            self.check()
            replies = [self._replies.pop(one) for one in wanted]
        for i, reply in enumerate(replies):
            if error := reply.get("error"):
                raise Qwen35Error(f"{self.names[i]}: {error}")
        return replies

    def check(self) -> None:
        """Raise `ProcessLostError` if one is lost, or all were ended."""
        if self.lost or self._closed:
            raise ProcessLostError(self.lost or "the other processes were ended")

    def check_soon(self) -> None:
        """As `check`, after an error of MLX that a loss may have caused, which shows presently."""
        with self._changed:
            self._changed.wait_for(lambda: self.lost, _NOTICE_SECONDS)
        self.check()

    def give_up_stalled(self) -> None:
        """Lose those that compute one pass for too long, if there are any. In any thread."""
        if self.stalled:
            self.lose(f"{self.stalled}: {_ADVICE}")

    def lose(self, line: str) -> None:
        """Take note that the processes cannot go on together."""
        with self._changed:
            if not self.lost and not self._closed:
                self.lost = line
                threading.Thread(target=self._when_lost, args=(line,), daemon=True).start()
            self._changed.notify_all()
        for connection in self._connections:  # they end, too
            connection.close()

    def close(self) -> None:
        """End the others."""
        self._closed = True
        for connection in self._connections:
            with suppress(EndedError):
                connection.send({"call": "end"})
            connection.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        self.check()
        for i, connection in enumerate(self._connections):
            try:
                connection.send(message)
            except EndedError as error:
                self._lose(i, error)
                self.check()

    def _listen(self, i: int) -> None:
        """The thread of one of the others."""
        connection = self._connections[i]
        try:
            while True:
                message = connection.receive()
                if "reply" in message:
                    with self._changed:
                        self._replies[i, int(message["reply"])] = message
                        self._changed.notify_all()
                elif "notice" in message:
                    self._notice(f"{self.names[i]}: {message['notice']}")
                elif "at" in message:
                    self._watch(i, message["at"])
                elif "failed" in message:
                    self.lose(f"{self.names[i]} has failed ({message['failed']}): {_ADVICE}")
        except EndedError as error:
            self._lose(i, error)

    def _watch(self, i: int, at: int | None) -> None:
        """Take note of the pass that one of the others computes, by its number; None for none."""
        before, now = self._at[i], time.monotonic()
        if at is None or before is None or before[0] != at:
            self._at[i] = None if at is None else (at, now)
            self.stalled = ""
        elif now - before[1] > STALLED_SECONDS and not self.stalled:
            first = min(pass_at[0] for pass_at in self._at if pass_at is not None)
            names = [
                name
                for name, pass_at in zip(self.names, self._at, strict=True)
                if pass_at is not None and pass_at[0] == first
            ]
            have = "has" if len(names) == 1 else "have"
            minutes = f"{STALLED_SECONDS / 60:.0f} minutes"
            self.stalled = f"{' and '.join(names)} {have} made no progress for {minutes}"
            self._notice(f"{self.stalled}: wait, or stop here to go on without the others")

    def _lose(self, i: int, error: EndedError) -> None:
        what = "does not answer" if isinstance(error, SilentError) else "has ended"
        self.lose(f"{self.names[i]} {what}: {_ADVICE}")


_ADVICE = "start all processes again, or go on with this machine alone"
