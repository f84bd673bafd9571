"""Statistics of logits by blocks of the vocabulary, against float64 on whole logits."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.evaluation.logits import Divergence, LogitStatistics, block_rows

N, VOCAB = 5, 23


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (np.exp(log_softmax(p)) * (log_softmax(p) - log_softmax(q))).sum(-1)


def by_blocks(x: np.ndarray, rows: int) -> list[tuple[int, mx.array]]:
    return [(i, mx.array(x[:, i : i + rows])) for i in range(0, x.shape[1], rows)]


def divergence(p: np.ndarray, q: np.ndarray, rows: int) -> np.ndarray:
    sums = [LogitStatistics(np.full(len(p), -1)) for _ in range(2)]
    both = Divergence(len(p))
    for (start, of_p), (_, of_q) in zip(by_blocks(p, rows), by_blocks(q, rows), strict=True):
        sums[0].add(start, of_p)
        sums[1].add(start, of_q)
        both.add(of_p, of_q)
    return both.result(sums[0].log_sum, sums[1].log_sum)


def draw(kind: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 4, (N, VOCAB))
    ramp = np.linspace(0, 300, VOCAB)
    return {"even": x, "rising": x + ramp, "falling": x - ramp, "far": x - 5000}[kind].astype("f")


@pytest.mark.parametrize("rows", [1, 7, VOCAB])
@pytest.mark.parametrize("kind", ["even", "rising", "falling", "far"])
def test_statistics_of_any_blocks(kind, rows):
    logits, targets = draw(kind), np.array([0, 6, 7, VOCAB - 1, 3])
    found = LogitStatistics(targets)
    for start, block in by_blocks(logits, rows):
        found.add(start, block)
    np.testing.assert_array_equal(found.greedy, logits.argmax(-1))
    want = -log_softmax(logits)[np.arange(N), targets]
    # An ulp of the largest logits is all that float32 allows.
    np.testing.assert_allclose(found.loss, want, rtol=1e-6, atol=np.spacing(np.abs(logits).max()))


@pytest.mark.parametrize("rows", [1, 7, VOCAB])
@pytest.mark.parametrize("kind", ["even", "rising", "falling"])
def test_divergence_of_any_blocks(kind, rows):
    p = draw(kind)
    q = (p + np.random.default_rng(2).normal(0, 0.5, p.shape)).astype("f")
    np.testing.assert_allclose(divergence(p, q, rows), kl(p, q), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7])
def test_a_token_that_p_excludes_and_q_prefers_costs_no_nan(rows):
    p, q = draw("even"), draw("even")
    p[:, 4], q[:, 4] = -1e4, 1e4
    np.testing.assert_allclose(divergence(p, q, rows), kl(p, q), rtol=1e-5)


def test_small_divergences_are_seen():
    p = draw("even")
    q = p + np.random.default_rng(3).normal(0, 3e-3, p.shape).astype("f")
    want = kl(p, q)
    assert want.max() < 1e-4
    np.testing.assert_allclose(divergence(p, q, 7), want, rtol=0.02, atol=5e-7)


def test_of_equal_largest_logits_the_first_is_greedy():
    logits = np.zeros((1, VOCAB), "f")
    logits[0, [5, 15]] = 1
    found = LogitStatistics(np.array([-1]))
    for start, block in by_blocks(logits, 7):
        found.add(start, block)
    assert found.greedy == [5]


@pytest.mark.parametrize(("positions", "width"), [(10, 64), (10_000, 64), (3, 8192), (1 << 23, 1)])
def test_blocks_are_bounded(positions, width):
    rows = block_rows(positions, width)
    assert rows == 1 or rows * max(positions, width) <= 1 << 22
