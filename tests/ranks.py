"""Processes on this machine that exchange arrays, as `mlx.launch` starts them.

Where each can have a GPU of its own, they use NCCL, otherwise MLX's ring over the loopback.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx

ROOT = Path(__file__).parents[1]


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
    return mx.cuda.is_available() and mx.device_count(mx.gpu) >= ranks


def _environments(ranks: int, folder: Path) -> list[dict[str, str]]:
    """What MLX reads in each of the processes."""
    if uses_nccl(ranks):
        group = {"NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": str(free_ports(1)[0])}
        group["MLX_WORLD_SIZE"] = str(ranks)
        own = [{"CUDA_VISIBLE_DEVICES": str(rank)} for rank in range(ranks)]
    else:
        hosts = folder / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(ranks)]))
        group, own = {"MLX_HOSTFILE": str(hosts)}, [{} for _ in range(ranks)]
    return [group | one | {"MLX_RANK": str(rank)} for rank, one in enumerate(own)]


def start_ranks(ranks: int, folder: Path, module: str, *arguments: str) -> list[subprocess.Popen]:
    """`python -m module arguments` once for each rank; each writes to folder/RANK.txt."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "app"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    processes = []
    for rank, own in enumerate(_environments(ranks, folder)):
        with (folder / f"{rank}.txt").open("wb") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    cwd=ROOT,
                    env=environment | own,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def run_ranks(ranks: int, folder: Path, module: str, *arguments: str, seconds: float = 120) -> None:
    """`start_ranks`, until all have ended well.

    Raises:
        AssertionError: one failed, with its output, or they took too long.
    """
    processes = start_ranks(ranks, folder, module, *arguments)
    deadline = time.monotonic() + seconds
    try:
        # One that fails leaves the others waiting for it.
        while any(process.poll() is None for process in processes):
            failed = [process for process in processes if process.poll()]
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    outputs = [(folder / f"{rank}.txt").read_text(errors="replace") for rank in range(ranks)]
    codes = [process.returncode for process in processes]
    assert codes == [0] * ranks, f"exit codes {codes}\n" + "\n".join(outputs)
