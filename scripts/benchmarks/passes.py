"""Time of a pass over few tokens, and what drafts gain: `python -m scripts.benchmarks.passes`.

For networks of published sizes with random weights, and a prompt in the cache: milliseconds of a
pass of T tokens, as a multiple of one; then tokens a second of a greedy reply where a given share
of the MTP head's drafts is right, by depth, as a multiple of decoding without drafts. The head runs
for every draft; what it drafts is replaced by what the share asks for.

Variants of kernels are not tried first: a GPU runs those that it starts from.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import MTPDrafts
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights
from scripts.support import report
from scripts.support.random_weights import SHAPES, random_source, select_gpu_variants

TOKENS = (1, 2, 3, 4, 5, 8)
DEPTHS: tuple[int | str, ...] = (1, 2, 3, 5, "auto")
CHUNK = 512


def build(shape: str) -> Network:
    """A network with its MTP head, and the variants that a GPU starts from."""
    source = random_source(shape, mtp=True)
    weights = Weights(source.config, source)
    gpu_kernel.disable_tf32()
    select_gpu_variants(weights.selection, source.packings)
    weights.selection.compiled = gpu_kernel.backend() is not None
    return Network(source.config, weights, mtp=True)


def prefilled(network: Network, length: int) -> Cache:
    cache, vocab = network.make_cache(), network.config.vocab_size
    ids = np.random.default_rng(0).integers(vocab, size=length).tolist()
    for _ in prefill(network, cache, ids, CHUNK):
        pass
    return cache


def pass_milliseconds(network: Network, cache: Cache, tokens: int, count: int) -> float:
    """Median over five runs of `count` passes, each launched before the last has ended."""
    ids = mx.array([list(range(100, 100 + tokens))])

    def run() -> None:
        outputs = []
        for _ in range(count):
            hidden = network(ids, cache, revocable=tokens > 1)
            outputs.append(mx.argmax(network.logits(hidden), axis=-1))
            mx.async_eval(outputs[-1])
        mx.eval(outputs)

    before = cache.snapshot()
    times = []
    for _ in range(6):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
        cache.restore(before)
    return 1000 * statistics.median(times[1:]) / count


def passes(network: Network, length: int, count: int) -> list[dict[str, Any]]:
    cache = prefilled(network, length)
    rows: list[dict[str, Any]] = []
    for tokens in TOKENS:
        ms = pass_milliseconds(network, cache, tokens, count)
        rows.append({"tokens": tokens, "ms": ms, "of one": ms / (rows[0]["ms"] if rows else ms)})
    return rows


class PlannedDrafts(MTPDrafts):
    """Drafts of which each is right with a given probability. The head runs all the same."""

    def __init__(self, network: Network, cache: Cache, reply: Sequence[int], share: float):
        super().__init__(network, cache)
        self._reply, self._share, self._random = reply, share, random.Random(1)

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        own = super().draft(count, sampler, reply, position)
        if not own.size:
            return own
        planned = [
            token if self._random.random() < self._share else (token + 1) % 1000
            for token in self._reply[position : position + count]
        ]
        # Depends on the head's own drafts, so that they are computed.
        return mx.array(planned, mx.int32) + 0 * own[: len(planned)]


def rate(network: Network, cache: Cache, tokens: int, drafter: Drafter | None) -> tuple[Any, float]:
    """The reply, and tokens a second of its second half."""
    sampler = Sampler(Sampling(temperature=0), network.config.vocab_size)
    before = cache.snapshot()
    stream = decode(network, cache, [7], sampler, drafter)
    reply = list(islice(stream, tokens // 2))
    started = time.perf_counter()
    reply += list(islice(stream, tokens - tokens // 2))
    seconds = time.perf_counter() - started
    stream.close()
    cache.restore(before)
    return reply, (tokens - tokens // 2) / seconds


def gains(
    network: Network,
    length: int,
    tokens: int,
    shares: Sequence[float],
    depths: Sequence[int | str] = DEPTHS,
) -> list[dict[str, Any]]:
    cache, costs = prefilled(network, length), PassCosts()
    rate(network, cache, 32, None)
    reply, plain = rate(network, cache, tokens, None)
    rows: list[dict[str, Any]] = []
    for share, depth in itertools.product(shares, depths):
        head = PlannedDrafts(network, cache, [*reply, *reply[:16]], share)
        drafter = Drafter(head, None, costs, depth=None if depth == "auto" else int(depth))
        found, drafted = rate(network, cache, tokens, drafter)
        differs = next(
            (i for i, (a, b) in enumerate(zip(found, reply, strict=True)) if a != b), None
        )
        rows.append(
            {
                "right": share,
                "depth": depth,
                "tok/s": drafted,
                "of none": drafted / plain,
                "tokens a pass": len(reply) / max(len(reply) - drafter.accepted, 1),
                "first difference": "" if differs is None else differs,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=["4b", "35b-a3b"])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=384, help="of a reply; 0 times passes alone")
    parser.add_argument("--right", type=float, nargs="+", default=[0.0, 0.5, 0.8, 1.0])
    args = parser.parse_args()
    rows = []
    for shape in args.shapes:
        network = build(shape)
        print(f"\n{shape}, {args.context} tokens of context", flush=True)
        found = passes(network, args.context, args.passes)
        report.print_table(found)
        rows += [{"shape": shape} | row for row in found]
        if args.tokens:
            gained = gains(network, args.context, args.tokens, args.right)
            report.print_table(gained)
            rows += [{"shape": shape} | row for row in gained]
        del network
    report.print_json("passes", rows, context=args.context, kernels=gpu_kernel.backend())


if __name__ == "__main__":
    main()
