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
WITHOUT_KERNELS = (
    "no kernels of this package run here: MLX's own operations may round a pass over several\n"
    "tokens otherwise than single ones, so that replies may differ at near-ties"
)


class TopTwo(Sampler):
    """Greedy; keeps the two largest logits of each token of a reply that is decoded one by one."""

    def __init__(self, vocab_size: int):
        super().__init__(GREEDY, vocab_size)
        self._pairs: list[mx.array] = []

    def __call__(
        self,
        logits: mx.array,
        reply: mx.array,
        position: int,
        drafts: mx.array | None = None,
        *,
        launch: bool = True,
    ) -> mx.array:
        self._pairs.append(mx.topk(logits.astype(mx.float32), 2))
        return super().__call__(logits, reply, position, drafts, launch=launch)

    def gaps(self) -> np.ndarray:
        """Between them, in units of the rounding of the larger one: [tokens]."""
        pairs = np.sort(np.array(mx.concatenate(self._pairs)), axis=-1)
        return rounding_units(pairs[:, 1], pairs[:, 0])


def rounding_units(larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """The distance of two numbers in steps of bfloat16 at the larger one."""
    _, exponent = np.frexp(larger)
    return (larger - smaller) / np.ldexp(1.0, exponent - SIGNIFICANT_BITS)


def measure(
    model: Model, count: int, tokens: int, modes: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """A row for each mode, and the near-ties without drafts.

    Args:
        count: of replies.
        tokens: of each; they do not end before.

    Returns:
        rows with the gap at each first difference, and how many tokens have gaps of at most 0, 1,
        2 and 4 units.
    """
    rows: list[dict[str, Any]] = [
        {"drafts": mode, "replies": count, "tokens": count * tokens, "differ": 0, "gaps": []}
        for mode in modes
    ]
    near: dict[int, int] = dict.fromkeys((0, 1, 2, 4), 0)
    for question in islice(mixed_questions(), count):
        asked = prepare(model, question)
        top = TopTwo(model.network.config.vocab_size)
        plain = write(model, asked, tokens, lambda _: None, sampler=top).ids
        gaps = top.gaps()[:tokens]
        for units in near:
            near[units] += int((gaps <= units).sum())
        for row in rows:
            make = partial(make_drafter, row["drafts"], model.network, costs=PassCosts())
            pairs = zip(write(model, asked, tokens, make).ids, plain, strict=True)
            if (first := next((i for i, (a, b) in enumerate(pairs) if a != b), None)) is not None:
                row["differ"] += 1
                row["gaps"].append(float(gaps[first]))
    return rows, near


def show(rows: Sequence[dict[str, Any]], near: dict[int, int]) -> None:
    shares = ", ".join(f"{number} of at most {units}" for units, number in near.items())
    print("gaps between the two largest logits, in units of the rounding of the larger one,")
    print(f"of {rows[0]['tokens']} tokens without drafts: {shares}")
    if gpu_kernel.backend() is None:
        print(WITHOUT_KERNELS)
    shown = [row | {"gaps": " ".join(f"{gap:g}" for gap in sorted(row["gaps"]))} for row in rows]
    report.print_table(shown)
