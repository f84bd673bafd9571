"""The machines that run a model together, as MLX's host files list them. Never imports mlx."""

import ipaddress
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, read_text
from qwen35_mlx.untrusted_json import parse_json
from qwen35_mlx.user_paths import shown

# The form of a host file, for error lines.
_FORM = '[{"ssh": "mac-1", "ips": ["192.168.2.1"]}, {"ssh": "mac-2", "ips": ["192.168.2.2"]}]'
# Where the ports of a ring are taken from: below those that systems give to others.
_PORTS = range(20000, 32000)
_HERE = frozenset(("127.0.0.1", "localhost", "::1"))


@dataclass(frozen=True, slots=True)
class Host:
    """A machine.

    Attributes:
        ssh: its name for ssh.
        addresses: its IP addresses; the ring has a connection over each.
    """

    ssh: str
    addresses: tuple[str, ...]

    @property
    def is_here(self) -> bool:
        """Whether it is this machine by its own name for itself."""
        return self.ssh in _HERE


def read_hosts(file: Path) -> list[Host]:
    """The machines of a host file; the first is this one.

    Raises:
        Qwen35Error: the file cannot be read, or names fewer than two machines.
    """
    try:
        entries = parse_json(read_text(file, f"write {_FORM}"))
    except ValueError as error:
        raise Qwen35Error(f"{shown(str(file))} is not JSON ({one_line(error)})") from None
    if isinstance(entries, dict):  # the form with a backend
        entries = entries.get("hosts")
    if not isinstance(entries, list) or len(entries) < 2:
        raise Qwen35Error(f"{shown(str(file))} does not list two machines or more: write {_FORM}")
    hosts = [_host(file, entry) for entry in entries]
    _check_different(file, hosts)
    return hosts


def _check_different(file: Path, hosts: Sequence[Host]) -> None:
    """Refuse a machine that is named twice, but for processes on this one without a network."""
    seen: set[str] = set()
    for host in hosts:
        names = {host.ssh} - _HERE
        names |= {one for one in host.addresses if not ipaddress.ip_address(one).is_loopback}
        if twice := sorted(names & seen):
            raise Qwen35Error(
                f"{shown(str(file))} names {twice[0]} twice: each machine has one entry, and "
                "addresses of its own"
            )
        seen |= names


def _host(file: Path, entry: object) -> Host:
    if isinstance(entry, dict):
        ssh, addresses = entry.get("ssh"), entry.get("ips")
        if isinstance(ssh, str) and ssh and not ssh.startswith("-") and isinstance(addresses, list):
            try:
                found = tuple(str(ipaddress.ip_address(address)) for address in addresses)
            except ValueError:
                found = ()
            if found:
                return Host(ssh, found)
    raise Qwen35Error(
        f"{shown(str(file))} has an entry without a name for ssh and IP addresses: write {_FORM}"
    )


def ring_of(hosts: Sequence[Host]) -> str:
    """The addresses with ports of all processes, as `MLX_HOSTFILE` has them."""
    count = sum(len(host.addresses) for host in hosts)
    ports = iter(random.sample(_PORTS, count))
    ring = [
        [f"[{ip}]:{next(ports)}" if ":" in ip else f"{ip}:{next(ports)}" for ip in host.addresses]
        for host in hosts
    ]
    return json.dumps(ring)
