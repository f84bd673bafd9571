"""Near-ties in bfloat16: greedy replies that differ with drafts, for the benchmark `drafts`.

Where the two largest logits are few roundings apart, a pass over several tokens may round the other
way than single ones do. The reply then goes on differently, and neither is wrong.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.generation.drafter import PassCosts
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.session.model import Model
from scripts.benchmarks.draft_runs import GREEDY, make_drafter, prepare, write
from scripts.benchmarks.draft_tasks import mixed_questions
from scripts.support import report

SIGNIFICANT_BITS = 8  # of bfloat16
CPU = (
    "On a CPU, passes over several tokens round otherwise than single ones, so that replies may "
    "differ; the kernels of a GPU compute the same bits in both."
)


class TopTwo(Sampler):
    """Greedy; keeps the two largest logits of each token of a reply that is decoded one by one."""

    def __init__(self, vocab_size: int):
        super().__init__(GREEDY, vocab_size)
        self._pairs: list[mx.array] = []

    def __call__(
        self, logits: mx.array, reply: mx.array, position: int, drafts: mx.array | None = None
    ) -> mx.array:
        self._pairs.append(mx.topk(logits.astype(mx.float32), 2))
        return super().__call__(logits, reply, position, drafts)

    def gaps(self) -> np.ndarray:
        """Between them, in units of the rounding of the larger one: [tokens]."""
        pairs = np.sort(np.array(mx.concatenate(self._pairs)), axis=-1)
        return rounding_units(pairs[:, 1], pairs[:, 0])


def rounding_units(larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """The distance of two numbers in steps of bfloat16 at the larger one."""
    _, exponent = np.frexp(larger)
    return (larger - smaller) / np.ldexp(1.0, exponent - SIGNIFICANT_BITS)


def measure(model: Model, count: int, tokens: int, modes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each mode; prints them, and how common near-ties are without drafts.

    Args:
        count: of replies.
        tokens: of each; they do not end before.
    """
    network = model.network
    rows = [
        {"drafts": mode, "replies": count, "tokens": count * tokens, "differ": 0, "gaps": []}
        for mode in modes
    ]
    near = dict.fromkeys((0, 1, 2, 4), 0)
    for question in islice(mixed_questions(), count):
        asked = prepare(model, question)
        top = TopTwo(network.config.vocab_size)
        plain = write(model, asked, tokens, lambda _: None, sampler=top)
        gaps = top.gaps()[:tokens]
        for units in near:
            near[units] += int((gaps <= units).sum())
        for row in rows:
            make = partial(make_drafter, row["drafts"], network, costs=PassCosts())
            found = write(model, asked, tokens, make)
            pairs = enumerate(zip(found.ids, plain.ids, strict=True))
            first = next((place for place, (a, b) in pairs if a != b), None)
            if first is not None:
                row["differ"] += 1
                row["gaps"].append(float(gaps[first]))
    shares = ", ".join(f"{n} at most {units}" for units, n in near.items())
    print(f"of {count * tokens} tokens without drafts, units of rounding between the two largest")
    print(f"logits: {shares}")
    if gpu_kernel.backend() is None:
        print(CPU)
    report.print_table(
        [
            {k: v for k, v in row.items() if k != "gaps"}
            | {"units apart where first": " ".join(f"{gap:g}" for gap in sorted(row["gaps"]))}
            for row in rows
        ]
    )
    return [row | {"near": near} for row in rows]
