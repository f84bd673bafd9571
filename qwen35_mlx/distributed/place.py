"""The place of this process among those that run a network together. Never imports mlx."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error

# As `mlx.launch` sets them.
RANK, HOSTFILE, COORDINATOR, NCCL_HOST = (
    *("MLX_RANK", "MLX_HOSTFILE"),
    *("MLX_JACCL_COORDINATOR", "NCCL_HOST_IP"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """What the environment says about a process and the others.

    Attributes:
        rank: of this process; the first, 0, leads.
        backend: of `mx.distributed`.
        address: of the machine of the first process.
        pipeline: of the first process: how it wants networks to be split, as for `Shard`.
    """

    rank: int
    backend: str
    address: str
    pipeline: bool = False

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Place | None":
        """As `mlx.launch` describes it; None for a process by itself.

        Raises:
            Qwen35Error: the description is not complete.
        """
        rank = environment.get(RANK, "")
        if not rank.isdecimal():
            return None
        if coordinator := environment.get(COORDINATOR):
            return cls(int(rank), "jaccl", coordinator.rpartition(":")[0])
        if file := environment.get(HOSTFILE):
            return cls(int(rank), "ring", _first_address(Path(file)))
        if host := environment.get(NCCL_HOST):
            return cls(int(rank), "nccl", host)
        raise Qwen35Error(
            f"{RANK} is set, and the other processes are not named: start all of them with "
            f"mlx.launch, or unset {RANK}"
        )


def environment_alone() -> dict[str, str]:
    """The environment of this process without what describes the others."""
    described = (RANK, HOSTFILE, COORDINATOR, NCCL_HOST)
    return {name: value for name, value in os.environ.items() if name not in described}


def _first_address(file: Path) -> str:
    try:
        address = json.loads(file.read_text())[0][0]
        host, _, _ = address.rpartition(":")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise Qwen35Error(
            f"{file} of {HOSTFILE} does not list addresses of processes: start them with mlx.launch"
        ) from None
    return host.strip("[]")
