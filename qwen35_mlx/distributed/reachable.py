"""Whether the processes of a ring reach each other, before MLX tries. Never imports mlx.

MLX waits for ever for a connection that does not come, and heeds no signal meanwhile.
"""

import errno
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error

# How long the next process may take to start, and to take a connection.
REACH_SECONDS = 30.0
_CONNECT_SECONDS = 3.0
_RETRY_SECONDS = 0.2


class RingCheck:
    """Listens on the addresses of a process until it is closed; then MLX does.

    Args:
        ring: addresses with ports of all processes, as `hosts.ring_of` writes them.
        rank: of the process.

    Raises:
        Qwen35Error: an address is not this machine's, or a port is in use.
    """

    def __init__(self, ring: str, rank: int):
        addresses: Sequence[Sequence[str]] = json.loads(ring)
        self._next = [_split(address) for address in addresses[(rank + 1) % len(addresses)]]
        self._sockets: list[socket.socket] = []
        for address in addresses[rank]:
            host, port = _split(address)
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                self._sockets.append(socket.create_server((host, port), family=family))
            except OSError as error:
                self.close()
                if error.errno == errno.EADDRINUSE:
                    line = f"port {port} of {host} is in use: start again, which takes another"
                else:
                    line = (
                        f"{host} is not an address of {this_host()} ({error.strerror}): correct "
                        "the host file"
                    )
                raise Qwen35Error(line) from None

    def __enter__(self) -> "RingCheck":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def reach_next(self, seconds: float = REACH_SECONDS) -> None:
        """Connect to each address of the next process.

        Raises:
            Qwen35Error: one cannot be reached within some seconds.
        """
        deadline = time.monotonic() + seconds
        for host, port in self._next:
            while True:
                left = max(deadline - time.monotonic(), 0.1)
                try:
                    socket.create_connection((host, port), min(left, _CONNECT_SECONDS)).close()
                    break
                except OSError as error:
                    if time.monotonic() + _RETRY_SECONDS > deadline:
                        raise Qwen35Error(
                            f"{this_host()} does not reach {host} ({error.strerror or error}): see "
                            "whether the address in the host file is right, and whether a cable "
                            "or a firewall is in the way"
                        ) from None
                time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def this_host() -> str:
    """The name of this machine, as people know it."""
    return socket.gethostname().removesuffix(".local")


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
