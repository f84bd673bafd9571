"""Processes on this machine that exchange arrays, as `mlx.launch` starts them."""

import os
import subprocess
import sys
import time
from pathlib import Path

from scripts.support.ranks import environments

ROOT = Path(__file__).parents[1]


def start_ranks(ranks: int, folder: Path, module: str, *arguments: str) -> list[subprocess.Popen]:
    """`python -m module arguments` once for each rank; each writes to folder/RANK.txt."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "app"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    processes = []
    for rank, own in enumerate(environments(ranks, folder)):
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
