"""Drafts leave the distribution of a reply as it is.

By default few draws are made. For a long run, with the statistics:

    QWEN35_DRAWS=200000 scripts/test tests/generation/test_drafts_distribution.py -s
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice, product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling

DRAWS = int(os.environ.get("QWEN35_DRAWS", "400"))
VOCAB = 4
# Log-probabilities of the next token, by the last one.
TABLE = np.log(
    [
        [0.4, 0.3, 0.2, 0.1],
        [0.05, 0.6, 0.28, 0.07],
        [0.31, 0.23, 0.27, 0.19],
        [0.66, 0.1, 0.08, 0.16],
    ]
)


class Chain:
    """In place of a network: a Markov chain. Its cache is the tokens it was given."""

    append_target_nbytes = 0

    def __init__(self) -> None:
        self.offset = 0

    def token_array(self, ids: Sequence[int]) -> mx.array:
        return mx.array([ids], mx.int32)

    def __call__(self, ids: mx.array, cache: Any, *, revocable: bool = False) -> mx.array:
        self.offset += ids.shape[1]
        return ids[..., None]

    def logits(self, hidden: mx.array) -> mx.array:
        return mx.array(TABLE.astype(np.float32))[hidden[..., 0]]

    def take_back(self, cache: Any, count: int) -> None:
        self.offset -= count


class Guesses:
    """Drafts at random, or sampled from another chain with the reply's own noise."""

    def __init__(self, seed: int, coupled: bool):
        self._rng, self._coupled, self._last = np.random.default_rng(seed), coupled, 0

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        self._last = ids[-1]

    def end(self, ids: Sequence[int], hidden: mx.array) -> None:
        pass

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        if not self._coupled:
            return mx.array(self._rng.integers(VOCAB, size=count).astype(np.int32))
        drafts = mx.array([], mx.int32)
        for i in range(count):
            last = int(drafts[-1]) if i else self._last
            logits = mx.array(TABLE[::-1][last].astype(np.float32))[None]
            before = mx.concatenate([reply, drafts])
            drafts = mx.concatenate([drafts, sampler(logits, before, position + i)])
        return drafts


def probabilities(sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Of three tokens after token 0, by the definitions."""

    def following(last: int, reply: tuple[int, ...]) -> np.ndarray:
        logits = TABLE[last].copy()
        logits[list(set(reply))] -= sampling.presence_penalty
        p = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-p, kind="stable")
        kept = np.zeros(VOCAB, bool)
        kept[order[np.cumsum(p[order]) - p[order] < sampling.top_p]] = True
        kept[order[sampling.top_k or VOCAB :]] = False
        scaled = np.where(kept, p, 0) ** (1 / sampling.temperature)
        return scaled / scaled.sum()

    return {
        (a, b, c): following(0, ())[a] * following(a, (a,))[b] * following(b, (a, b))[c]
        for a, b, c in product(range(VOCAB), repeat=3)
    }


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, 1.0, 0),
        Sampling(0.7, 1.0, 0),
        Sampling(1.0, 1.0, 3),
        Sampling(0.7, 0.85, 0),
        Sampling(1.0, 1.0, 3, 0.0, 1.0),
    ],
    ids=["T 1", "T 0.7", "top-k", "top-p", "presence"],
)
def test_three_tokens_have_their_joint_distribution(sampling: Sampling, coupled: bool):
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(DRAWS):
        chain: Any = Chain()
        source: Any = Guesses(seed, coupled)
        drafter = Drafter(source, None, PassCosts(), depth=2)
        stream = decode(chain, chain, [0], Sampler(sampling, VOCAB, seed), drafter)
        counts[tuple(islice(stream, 3))] += 1
        stream.close()
        assert chain.offset == 4
    want = {key: p for key, p in probabilities(sampling).items() if p > 0}
    assert counts.keys() <= want.keys()
    # Cells of few expected draws are joined, as the test needs.
    found, expected = [], []
    rare = [0.0, 0.0]
    for key, p in want.items():
        if DRAWS * p < 5:
            rare[0] += counts[key]
            rare[1] += DRAWS * p
        else:
            found.append(counts[key])
            expected.append(DRAWS * p)
    if rare[1] >= 5:
        found.append(rare[0])
        expected.append(rare[1])
    statistic = sum((a - b) ** 2 / b for a, b in zip(found, expected, strict=True))
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the 99 % quantile.
    limit = freedom * (1 - 2 / (9 * freedom) + 2.326 * (2 / (9 * freedom)) ** 0.5) ** 3
    print(f"{DRAWS} draws: chi-square {statistic:.1f} of {freedom}, at most {limit:.1f}")
    assert statistic < limit
