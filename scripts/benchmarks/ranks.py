"""Speed of networks in several processes: `python -m scripts.benchmarks.ranks --ranks 1 2`.

Random 4-bit weights of published sizes. For each number of processes, on this machine: prefill of a
prompt and greedy decoding, where every process makes the same calls and samples for itself; how
long the host works on a pass; the same of one process's part with nothing exchanged, so that the
difference is what the exchanges cost; and one exchange alone, of the hidden vector of a token.

With CUDA, each process has a GPU of its own, over NCCL; without, MLX's ring over the loopback.
Started by `mlx.launch` on each of several machines, it measures those:

    mlx.launch --hostfile hosts.json python -m scripts.benchmarks.ranks
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.distributed.place import RANK, Place
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.parallel import ALONE, Parallel
from qwen35_mlx.model.split import split_config
from qwen35_mlx.model.weights import Weights
from scripts.benchmarks.generate import measure, ours, prompt_ids
from scripts.support import report
from scripts.support.random_weights import SHAPES, RandomSource, select_gpu_variants
from scripts.support.ranks import environments

GROUP = 64  # of the packed weights
EXCHANGES = 64  # timed one after the other
_RESULT = "result: "


def build(shape: str, parallel: Parallel, *, exchanges: bool, tune: bool) -> Network:
    """The part of a network that a process has, with random weights of its own.

    Args:
        exchanges: whether it exchanges anything; without, its results mean nothing.
        tune: whether kernels are checked and timed, as at a first load.
    """
    config = ModelConfig.from_dict(SHAPES[shape])
    if parallel.shard is not None:
        config = split_config(config, parallel.shard, GROUP)
    source = RandomSource(config, dtype=mx.bfloat16 if gpu_kernel.backend() else mx.float32)
    weights = Weights(config, source, parallel=parallel if exchanges else ALONE)
    if not tune:
        select_gpu_variants(weights.selection, source.packings)
        weights.selection.compiled = gpu_kernel.backend() is not None
    network = Network(config, weights)
    if tune:
        select_kernels(network, print)
    return network


def host_milliseconds(network: Network, args: argparse.Namespace) -> float:
    """Of a pass of one token: until it is launched, while the GPU may lag behind."""
    cache, count = network.make_cache(), 16
    network(mx.array([prompt_ids(64)]), cache)
    token, spent = mx.array([[7]]), 0.0
    for _ in range(count):
        started = time.perf_counter()
        token = mx.argmax(network.logits(network(token, cache)), axis=-1)
        mx.async_eval(token)
        spent += time.perf_counter() - started
        mx.eval(token)
    return 1000 * spent / count


def exchange_microseconds(parallel: Parallel, width: int) -> float:
    """Of one exchange within a graph of many, where each needs the one before."""
    times = []
    for _ in range(4):
        x = mx.ones((1, 1, width), mx.bfloat16)
        mx.eval(x)
        started = time.perf_counter()
        for _ in range(EXCHANGES):
            x = parallel.sum(x) * 0.5
        mx.eval(x)
        times.append(time.perf_counter() - started)
    return 1e6 * min(times) / EXCHANGES


def measure_shape(shape: str, group: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    parallel = Parallel(group)
    ranks = 1 if parallel.shard is None else parallel.shard.ranks
    rows = []
    for kind in ("", "nothing exchanged")[: min(ranks, 2)]:
        network = build(shape, parallel, exchanges=not kind, tune=args.tune)
        name = ", ".join(part for part in (shape, f"{ranks} processes", kind) if part)
        row = measure(name, ours(network, args.chunk), args)
        row["host ms"] = host_milliseconds(network, args)
        width = network.config.hidden_size
        del network
        gc.collect()
        mx.clear_cache()
        if ranks > 1 and not kind:
            row["exchange us"] = exchange_microseconds(parallel, width)
        keys = ("prefill tok/s", "decode tok/s", "ms a pass", "host ms", "exchange us")
        found = {key: row.get(key) for key in (*keys, "weights GB", "peak above GB")}
        rows.append({"shape": shape, "processes": ranks, "with": kind} | found)
    return rows


def measure_here(args: argparse.Namespace) -> None:
    """As one of the processes; the first one prints the rows."""
    gpu_kernel.disable_tf32()
    place = Place.of_environment()
    group = mx.distributed.init(strict=True, backend=place.backend) if place else None
    for shape in args.shapes:
        rows = measure_shape(shape, group, args)
        if place is None or place.rank == 0:
            for row in rows:
                print(_RESULT + json.dumps(row), flush=True)
            if place is not None and not args.child:
                report.print_table(rows)


def run_processes(ranks: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a number of processes on this machine."""
    options = [*sys.argv[1:], "--child"]
    command = [sys.executable, "-m", "scripts.benchmarks.ranks", *options]
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank, environment in enumerate(environments(ranks, Path(folder))):
            processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    text=True,
                )
            )
        rows = []
        assert processes[0].stdout is not None
        for line in processes[0].stdout:
            if line.startswith(_RESULT):
                rows.append(json.loads(line.removeprefix(_RESULT)))
            else:
                print(f"  {line}", end="", flush=True)
        for process in processes:
            process.wait()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=["35b-a3b", "122b-a10b"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes")
    parser.add_argument("--prompt", type=int, default=4096, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    parser.add_argument("--chunk", type=int, default=2048, help="tokens of one prefill chunk")
    parser.add_argument("--tune", action="store_true", help="check and time kernels first")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child or RANK in os.environ:
        measure_here(args)
        return
    rows: list[dict[str, Any]] = []
    for ranks in args.ranks:
        rows += run_processes(ranks, args)
    for row in rows:
        first = next(one for one in rows if one["shape"] == row["shape"])
        for key in ("prefill tok/s", "decode tok/s"):
            row[f"{key.split()[0]} of first"] = row[key] / first[key]
    report.print_table(rows)
    report.print_json("ranks", rows, prompt=args.prompt, tokens=args.tokens, chunk=args.chunk)


if __name__ == "__main__":
    main()
