"""Whole-model speed beside mlx-lm: `python -m scripts.benchmarks.generate --shape 35b-a3b`.

Both run the same random weights of a published size (or the same MLX checkpoint, `--model`) on the
same device, one after the other in this process: prefill of a prompt, then greedy decoding. Prints
a table and ends in one JSON line.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.network import Network
from scripts.support import report
from scripts.support.mlx_lm_peer import mlx_lm_model
from scripts.support.random_weights import SHAPES, random_network, random_source

Generate = Callable[[list[int]], Iterator[int]]  # a prompt -> the greedy tokens after it


def ours(network: Network, chunk: int) -> Generate:
    def run(prompt: list[int]) -> Iterator[int]:
        cache = network.make_cache()
        for _ in prefill(network, cache, prompt[:-1], chunk):
            pass
        yield from decode(
            network, cache, prompt[-1], Sampler(Sampling(temperature=0), network.config.vocab_size)
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


def measure(
    name: str, generate: Generate, prompt: list[int], count: int, warm_up: int
) -> dict[str, Any]:
    """Prefill and decode speed, after a first run of `warm_up` prompt tokens that compiles."""
    first = list(islice(generate(prompt[:warm_up]), 8))
    mx.synchronize()
    mx.reset_peak_memory()
    weights = mx.get_active_memory()
    started = time.perf_counter()
    stream = generate(prompt)
    reply = [next(stream)]
    prefilled = time.perf_counter()
    reply += list(islice(stream, 8))  # the first steps are slower
    steady = time.perf_counter()
    reply += list(islice(stream, count))
    ended = time.perf_counter()
    return {
        "what": name,
        "prefill tok/s": (len(prompt) - 1) / (prefilled - started),
        "decode tok/s": count / (ended - steady),
        "ms a token": 1000 * (ended - steady) / count,
        "weights GB": weights / 1e9,
        "peak above GB": (mx.get_peak_memory() - weights) / 1e9,
        "reply": reply[:4] + first[:2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="35b-a3b")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--model", type=Path, help="MLX checkpoint instead of random weights")
    parser.add_argument("--prompt", type=int, default=4096, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    parser.add_argument("--chunk", type=int, default=2048, help="tokens of one prefill chunk")
    parser.add_argument("--only", choices=("ours", "mlx-lm"))
    args = parser.parse_args()

    def load_ours() -> Generate:
        if args.model:
            import qwen35_mlx

            return ours(qwen35_mlx.load(args.model).network, args.chunk)
        return ours(random_network(random_source(args.shape, args.bits)), args.chunk)

    def load_mlx_lm() -> Generate:
        if args.model:
            from mlx_lm import load

            return mlx_lm(load(str(args.model))[0], args.chunk)
        return mlx_lm(mlx_lm_model(args.shape, random_source(args.shape, args.bits)), args.chunk)

    name = str(args.model or args.shape)
    prompt = [(i * 7919) % 1900 for i in range(args.prompt)]
    warm_up = min(args.prompt, args.chunk + 1)
    loaders = {"ours": load_ours, "mlx-lm": load_mlx_lm}
    rows = []
    for which, load in loaders.items():
        if args.only in (None, which):
            started = time.perf_counter()
            generate = load()
            print(f"{which}: loaded in {time.perf_counter() - started:.1f} s", flush=True)
            rows.append(measure(which, generate, prompt, args.tokens, warm_up))
            del generate
            gc.collect()
            mx.clear_cache()
    print(f"{name}, {args.bits} bits, prompt of {args.prompt} tokens")
    report.print_table(rows)
    ratios = {}
    if len(rows) == 2:
        ratios = {k: rows[0][k] / rows[1][k] for k in ("prefill tok/s", "decode tok/s")}
        print("ours over mlx-lm: " + ", ".join(f"{k} {v:.2f}x" for k, v in ratios.items()))
    report.print_json("generate", rows, model=name, kernels=gpu_kernel.backend(), ratios=ratios)


if __name__ == "__main__":
    main()
