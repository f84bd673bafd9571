"""Whole-model speed: `python -m scripts.benchmarks.generate --peers mlx-lm llama.cpp`.

All run random weights of a published size (or the same checkpoint, `--model`) on the same device,
one after the other in this process: prefill of a prompt, then greedy decoding. mlx-lm has the very
same weights; llama.cpp, where llama-cpp-python is installed, a GGUF file of the same shape in Q4_0
or Q8_0. Then, for this package alone: keys and values in 8 bits, passes over a few tokens, and
drafts of which a given share is right. Prints a table and ends in one JSON line.
"""

import argparse
import gc
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx

import qwen35_mlx
from qwen35_mlx.checkpoint.gguf.header import read_settings
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.network import Network
from scripts.benchmarks import passes
from scripts.support import report
from scripts.support.llama_cpp_peer import LlamaCpp, llama_cpp_package
from scripts.support.mlx_lm_peer import mlx_lm_model, mlx_lm_package
from scripts.support.random_gguf import KINDS, general_name, random_gguf_layout, write_random_gguf
from scripts.support.random_weights import SHAPES, random_network, random_source

Generate = Callable[[list[int]], Iterator[int]]  # a prompt -> the greedy tokens after it
Row = dict[str, Any]

# cost: time of a pass, as a multiple of a pass of one token. speed: of the reply, as a multiple of
# this package's without drafts.
COLUMNS = (
    *("what", "prefill tok/s", "decode tok/s", "ms a pass", "cost", "speed", "tokens a pass"),
    *("weights GB", "peak above GB"),
)
KV_BITS = 8
FIRST_STEPS = 8  # of a reply, which are slower
UNTIMED = 8  # tokens of a reply that compiles


def ours(network: Network, chunk: int, kv_bits: int | None = None) -> Generate:
    def run(prompt: list[int]) -> Iterator[int]:
        cache = network.make_cache(kv_bits)
        for _ in prefill(network, cache, prompt[:-1], chunk):
            pass
        yield from decode(
            network, cache, prompt[-1:], Sampler(Sampling(temperature=0), network.config.vocab_size)
        )

    return run


def mlx_lm(model: Any, chunk: int) -> Generate:
    from mlx_lm.generate import generate_step

    def run(prompt: list[int]) -> Iterator[int]:
        for token, _ in generate_step(
            mx.array(prompt), model, max_tokens=-1, prefill_step_size=chunk
        ):
            yield int(token)

    return run


def measure(name: str, generate: Generate, args: argparse.Namespace) -> Row:
    """Prefill and decode speed, after a first run that compiles."""
    prompt, count = prompt_ids(args.prompt), args.tokens
    warm_up = min(args.prompt, args.chunk + 1)
    first = list(islice(generate(prompt[:warm_up]), UNTIMED))
    mx.synchronize()
    mx.reset_peak_memory()
    weights = mx.get_active_memory()
    started = time.perf_counter()
    stream = generate(prompt)
    reply = [next(stream)]
    prefilled = time.perf_counter()
    reply += list(islice(stream, FIRST_STEPS))
    steady = time.perf_counter()
    reply += list(islice(stream, count))
    ended = time.perf_counter()
    print(f"{name}: {count / (ended - steady):.1f} tokens/s", flush=True)
    return dict.fromkeys(COLUMNS) | {
        "what": name,
        "prefill tok/s": (len(prompt) - 1) / (prefilled - started),
        "decode tok/s": count / (ended - steady),
        "ms a pass": 1000 * (ended - steady) / count,
        "weights GB": weights / 1e9,
        "peak above GB": (mx.get_peak_memory() - weights) / 1e9,
        "reply": reply[:4] + first[:2],
    }


def prompt_ids(count: int) -> list[int]:
    return [(i * 7919) % 1900 for i in range(count)]


def ours_rows(args: argparse.Namespace) -> list[Row]:
    """The rows of this package."""
    if args.model:
        network = qwen35_mlx.load(args.model).network
    else:
        network = random_network(random_source(args.shape, args.bits, mtp=args.drafts > 0))
    rows = [measure("ours", ours(network, args.chunk), args)]
    rows.append(measure(f"ours, {KV_BITS}-bit KV", ours(network, args.chunk, KV_BITS), args))
    if args.passes:
        for found in passes.passes(network, args.prompt, args.passes):
            values = {"ms a pass": found["ms"], "cost": found["of one"]}
            rows.append(_row(f"a pass of {found['tokens']}", values))
    if args.drafts and network.mtp is None:
        print("no MTP head, so no rows of drafts", flush=True)
    elif args.drafts:
        for found in passes.gains(network, args.prompt, args.drafts, args.right, ["auto"]):
            values = {"decode tok/s": found["tok/s"], "speed": found["of none"]}
            values |= {key: found[key] for key in ("tokens a pass", "first difference")}
            rows.append(_row(f"drafts, {found['right']:.0%} right", values))
    return rows


def mlx_lm_rows(args: argparse.Namespace) -> list[Row]:
    if args.model:
        from mlx_lm import load

        model: Any = load(str(args.model))[0]
    else:
        model = mlx_lm_model(args.shape, random_source(args.shape, args.bits))
    return [measure("mlx-lm", mlx_lm(model, args.chunk), args)]


def llama_cpp_rows(args: argparse.Namespace) -> list[Row]:
    with gguf_file(args) as path:
        context = args.prompt + UNTIMED + FIRST_STEPS + args.tokens
        model = LlamaCpp(path, context, args.chunk)
        row = measure(model.name, model.generate, args)
        model.close()
    return [row | {"weights GB": model.nbytes / 1e9, "peak above GB": None}]


PEERS = {"mlx-lm": (mlx_lm_package, mlx_lm_rows), "llama.cpp": (llama_cpp_package, llama_cpp_rows)}


@contextmanager
def gguf_file(args: argparse.Namespace) -> Iterator[Path]:
    """The file for llama.cpp: the one of `--gguf`, written if it is not there, or a temporary one.

    Raises:
        Qwen35Error: there is no room for it, or it cannot be written.
    """
    if args.gguf and args.gguf.exists():
        yield args.gguf
        return
    layout = random_gguf_layout(ModelConfig.from_dict(SHAPES[args.shape]), args.bits)
    with tempfile.TemporaryDirectory() as folder:
        path = args.gguf or Path(folder) / "random.gguf"
        free = shutil.disk_usage(path.parent).free
        if free < layout.nbytes:
            raise Qwen35Error(
                f"{path.parent} has {free / 1e9:.1f} GB left and llama.cpp's file takes "
                f"{layout.nbytes / 1e9:.1f}: give --gguf a path on another disk"
            )
        started = time.perf_counter()
        try:
            write_random_gguf(path, layout, general_name(args.shape, args.bits))
        except OSError as error:
            raise Qwen35Error(
                f"cannot write {path} ({error.strerror}): give --gguf another path"
            ) from error
        seconds = time.perf_counter() - started
        print(f"{layout.nbytes / 1e9:.1f} GB written for llama.cpp in {seconds:.0f} s", flush=True)
        yield path


def check(args: argparse.Namespace) -> dict[str, str]:
    """The versions of the peers, before anything takes time.

    Raises:
        Qwen35Error: a number is too small, a package is missing, or a peer does not read the model.
    """
    for name, least in {"prompt": 2, "tokens": 1, "chunk": 1, "passes": 0, "drafts": 0}.items():
        if (value := getattr(args, name)) < least:
            raise Qwen35Error(f"--{name} is {value}: it must be {least} or more")
    if any(not 0 <= share <= 1 for share in args.right):
        raise Qwen35Error("--right: a share of right drafts must be between 0 and 1")
    versions = {peer: PEERS[peer][0]().__version__ for peer in args.peers}
    if "mlx-lm" in args.peers and args.model and args.model.suffix == ".gguf":
        raise Qwen35Error("mlx-lm reads no GGUF file: leave it out of --peers")
    if "llama.cpp" in args.peers:
        _check_gguf(args)
    return versions


def _check_gguf(args: argparse.Namespace) -> None:
    path = args.gguf
    if args.model and path is None:
        raise Qwen35Error(
            "llama.cpp reads no MLX checkpoint: give --gguf the same model's GGUF file"
        )
    if args.model:
        if not path.exists():
            raise Qwen35Error(f"there is no file {path}: check the path")
    elif path and path.exists():
        found = read_settings(path).get("general.name")
        if found != (wanted := general_name(args.shape, args.bits)):
            raise Qwen35Error(
                f"{path} holds {shown(found)}, not {wanted!r}: remove it or give another path"
            )
    elif path and not path.parent.is_dir():
        raise Qwen35Error(f"--gguf: there is no folder {path.parent}: make it first")


def compare(rows: list[Row], peers: list[str]) -> dict[str, dict[str, float]]:
    """Fill in the speed of each reply, and return this package's ratios to each peer.

    Args:
        rows: this package's first, the peers' last.
    """
    for row in rows:
        if row["decode tok/s"] is not None and row["speed"] is None:
            row["speed"] = row["decode tok/s"] / rows[0]["decode tok/s"]
    return {
        peer: {key: rows[0][key] / row[key] for key in ("prefill tok/s", "decode tok/s")}
        for peer, row in zip(peers, rows[len(rows) - len(peers) :], strict=True)
    }


def run() -> int:
    args = _parser().parse_args()
    if args.gguf is None and args.model and args.model.suffix == ".gguf":
        args.gguf = args.model
    versions = check(args)
    rows: list[Row] = []
    for measured in (ours_rows, *(PEERS[peer][1] for peer in args.peers)):
        rows += measured(args)
        gc.collect()
        mx.clear_cache()
    ratios = compare(rows, args.peers)
    bits = None if args.model else args.bits
    name = str(args.model or args.shape)
    print(f"\n{name}{f', {bits} bits' if bits else ''}, prompt of {args.prompt} tokens")
    report.print_table([{key: row[key] for key in COLUMNS} for row in rows])
    for peer, found in ratios.items():
        print(f"ours over {peer}: " + ", ".join(f"{k} {v:.2f}x" for k, v in found.items()))
    settings = {key: getattr(args, key) for key in ("prompt", "tokens", "chunk")} | {"bits": bits}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    about = {"system": platform.platform(terse=True), "memory GB": round(memory / 1e9)}
    about |= {"kernels": gpu_kernel.backend(), "versions": versions, "ratios": ratios}
    report.print_json("generate", rows, model=name, **settings, **about)
    return 0


def _row(what: str, values: dict[str, Any]) -> Row:
    return dict.fromkeys(COLUMNS) | {"what": what} | values


def _parser() -> CommandParser:
    parser = CommandParser(prog="generate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="35b-a3b")
    parser.add_argument("--bits", type=int, default=4, choices=KINDS)
    parser.add_argument(
        "--model", type=Path, help="MLX checkpoint or GGUF file instead of random weights"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=["mlx-lm"], help="none: this package alone"
    )
    parser.add_argument(
        "--gguf", type=Path, help="llama.cpp's file, written if it is not there and then kept"
    )
    parser.add_argument("--prompt", type=int, default=4096, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    parser.add_argument("--chunk", type=int, default=2048, help="tokens of one prefill chunk")
    parser.add_argument("--passes", type=int, default=32, help="of each length; 0 for no such rows")
    parser.add_argument(
        "--drafts", type=int, default=256, help="tokens of a reply with drafts; 0 for no such rows"
    )
    parser.add_argument(
        "--right", type=float, nargs="+", default=[0.0, 0.5, 0.8, 1.0], help="share of right drafts"
    )
    return parser


def main() -> int:
    return run_command("generate", run)


if __name__ == "__main__":
    sys.exit(main())
