"""How a server runs."""

import ipaddress
from dataclasses import dataclass

from qwen35_mlx.errors import Qwen35Error

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server runs.

    Attributes:
        name: of the model, as clients see it.
        aliases: other names that clients may use; * and ? are wildcards.
        host, port: where it listens; port 0 is any free one.
        api_key: that every client must send; None for none.
        origins: of web pages that may use it; "*" for all of them.
        hosts: names in the Host header that are served on a loopback address besides its own.

    Raises:
        Qwen35Error: it would be open to other machines without a key, or a value does not fit.
    """

    name: str
    aliases: tuple[str, ...] = ()
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise Qwen35Error("the API key has characters that no HTTP header can hold: use ASCII")
        if self.api_key is not None and not self.api_key.strip():
            raise Qwen35Error("the API key is empty: give some text, or leave it out")
        if self.api_key is None and not self.is_local:
            raise Qwen35Error(
                f"--host {self.host} lets other machines in, and there is no API key: "
                "give --api-key KEY or set QWEN35_API_KEY"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address always means this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
