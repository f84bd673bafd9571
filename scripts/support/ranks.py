"""The environment of processes on this machine that run a network together.

Where each can have a GPU of its own, they use NCCL, otherwise MLX's ring over the loopback.
"""

import json
import socket
from pathlib import Path

import mlx.core as mx

from qwen35_mlx.distributed.place import HOSTFILE, NCCL_HOST, RANK


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def uses_nccl(ranks: int) -> bool:
    """Whether each process can have a GPU of its own."""
    return mx.cuda.is_available() and mx.device_count(mx.gpu) >= ranks


def environments(ranks: int, folder: Path) -> list[dict[str, str]]:
    """What MLX reads in each of the processes.

    Args:
        folder: for the file that names them.
    """
    if ranks == 1:
        return [{}]
    if uses_nccl(ranks):
        group = {NCCL_HOST: "127.0.0.1", "NCCL_PORT": str(free_ports(1)[0])}
        group["MLX_WORLD_SIZE"] = str(ranks)
        own = [{"CUDA_VISIBLE_DEVICES": str(rank)} for rank in range(ranks)]
    else:
        hosts = folder / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(ranks)]))
        group, own = {HOSTFILE: str(hosts)}, [{} for _ in range(ranks)]
    return [group | one | {RANK: str(rank)} for rank, one in enumerate(own)]
