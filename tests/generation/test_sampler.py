"""Sampling, against its definitions and against mlx-lm."""

import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

import qwen35_mlx
from qwen35_mlx.generation.sampler import (
    MAX_CANDIDATES,
    ROW_LENGTH,
    filtered,
    make_sampler,
    penalised,
    top_k_candidates,
    top_k_ids,
)
from qwen35_mlx.generation.sampling_parameters import Sampling

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0)
EMPTY = mx.array([], dtype=mx.int32)


def draws(
    sampling: Sampling, logits: list[float], count: int = 400, reply: mx.array = EMPTY
) -> set[int]:
    """All tokens drawn."""
    mx.random.seed(0)
    sample = make_sampler(sampling, len(logits))
    return {int(sample(mx.array(logits), reply).item()) for _ in range(count)}


LOGITS = np.log([0.5, 0.3, 0.15, 0.05]).tolist()


def test_temperature_zero_takes_the_most_likely():
    assert draws(Sampling(temperature=0.0), LOGITS) == {0}


def test_without_filters_every_token_is_drawn():
    assert draws(PLAIN, LOGITS) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_k": 4}, {0, 1, 2, 3}),
        ({"top_k": 400}, {0, 1, 2, 3}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.85}, {0, 1, 2}),
        ({"min_p": 0.5}, {0, 1}),
        ({"min_p": 0.2}, {0, 1, 2}),
    ],
)
def test_filters_keep_the_tokens_of_their_definition(change, left):
    assert draws(PLAIN.updated(change), LOGITS) == left


def mlx_lm_penalised(logits: mx.array, reply: mx.array, sampling: Sampling) -> mx.array:
    """`penalised`, made of mlx-lm's parts: [1, vocab]."""
    penalty = sampling.repetition_penalty
    logits = logits.astype(mx.float32)[None]
    for process in sample_utils.make_logits_processors(
        repetition_penalty=None if penalty == 1 else penalty,
        repetition_context_size=1 << 30,
        presence_penalty=sampling.presence_penalty,
        presence_context_size=1 << 30,
    ):
        logits = process(reply, logits)
    return logits


def mlx_lm_sampler(sampling: Sampling, vocab: int) -> Any:
    """`make_sampler`, made of mlx-lm's parts."""
    draw = sample_utils.make_sampler(
        temp=sampling.temperature,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        top_k=sampling.top_k if sampling.top_k < vocab else 0,
    )

    def sample(logits: mx.array, reply: mx.array) -> mx.array:
        logits = mlx_lm_penalised(logits, reply, sampling)
        return draw(logits - mx.logsumexp(logits, axis=-1, keepdims=True)).squeeze(0)

    return sample


def mlx_lm_logprobs(logits: mx.array, sampling: Sampling, monkeypatch) -> mx.array:
    """The scaled log-probabilities that mlx-lm draws from, [vocab]."""
    seen: list[mx.array] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            sample_utils,
            "categorical_sampling",
            lambda x, t: seen.append(x * (1 / t)) or mx.argmax(x, -1),
        )
        mlx_lm_sampler(sampling, logits.size)(logits, EMPTY)
    return seen[0].squeeze(0)


def drawn_logits(vocab: int, key: int) -> mx.array:
    """bfloat16, so that many logits are equal."""
    return (4 * mx.random.normal((vocab,), key=mx.random.key(key))).astype(mx.bfloat16)


@pytest.mark.parametrize("vocab", [50, ROW_LENGTH + 1, 20_011])
@pytest.mark.parametrize("top_k", [0, MAX_CANDIDATES + 1, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3, 1e-6])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_filters_and_draws_are_mlx_lms_to_the_bit(vocab, top_k, top_p, min_p, monkeypatch):
    for temperature, presence, repetition in product((1.0, 0.7, 1.7), (0.0, 1.5), (1.0, 1.3)):
        sampling = Sampling(temperature, top_p, top_k, min_p, presence, repetition)
        logits = drawn_logits(vocab, top_k)
        reply = mx.random.randint(0, vocab, (30,), key=mx.random.key(1))
        drawn = []
        for sample in (mlx_lm_sampler(sampling, vocab), make_sampler(sampling, vocab)):
            mx.random.seed(7)
            drawn.append([int(sample(logits, reply[:n])) for n in (0, 1, 30, 30, 30)])
        assert drawn[0] == drawn[1], sampling
        want = mlx_lm_logprobs(logits, sampling, monkeypatch)
        assert mx.array_equal(filtered(logits, sampling), want), sampling


@pytest.mark.parametrize(("presence", "repetition"), [(1.5, 1.0), (-2.0, 1.0), (0.0, 1.3), (1, 3)])
def test_penalties_are_mlx_lms_to_the_bit_under_greedy_sampling(presence, repetition):
    sampling = Sampling(0.0, presence_penalty=presence, repetition_penalty=repetition)
    ours, theirs = make_sampler(sampling, 300), mlx_lm_sampler(sampling, 300)
    reply = mx.array([], dtype=mx.int32)
    for i in range(40):
        logits = drawn_logits(300, i % 3)
        want = mlx_lm_penalised(logits, reply, sampling).squeeze(0)
        assert mx.array_equal(penalised(logits, reply, sampling), want)
        token = ours(logits, reply)
        assert int(token) == int(theirs(logits, reply))
        reply = mx.concatenate([reply, token.astype(mx.int32)[None]])


@pytest.mark.parametrize("vocab", [50, ROW_LENGTH, ROW_LENGTH + 1, 20_011])
@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 20, "top_p": 0.95, "temperature": 1.0},
        {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
        {"top_k": 1},
        {"top_k": 50, "min_p": 0.1, "top_p": 1.0},
        {"top_k": 40, "min_p": 0.02, "top_p": 0.9, "temperature": 1.7},
    ],
)
def test_candidates_have_the_probabilities_of_mlx_lm(vocab, change, monkeypatch):
    sampling = PLAIN.updated(change)
    logits = 4 * mx.random.normal((vocab,), key=mx.random.key(vocab))
    want = np.array(mx.softmax(mlx_lm_logprobs(logits, sampling, monkeypatch)))
    ids, logprobs = top_k_candidates(logits, sampling)
    got = np.zeros(vocab)
    got[np.array(ids)] = np.array(mx.softmax(logprobs))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_sampling_does_not_import_mlx_lm():
    code = (
        "import sys, mlx.core as mx\n"
        "from qwen35_mlx.generation.sampler import make_sampler\n"
        "from qwen35_mlx.generation.sampling_parameters import Sampling\n"
        "for sampling in (Sampling(1.0, 0.9, 20, 0.1), Sampling(1.0, 0.9, 0, 0.1, 1.5, 1.1)):\n"
        "    sample = make_sampler(sampling, 5000)\n"
        "    sample(mx.zeros(5000), mx.array([3], mx.int32)).item()\n"
        "sys.exit('mlx_lm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_no_module_of_the_product_names_mlx_lm_in_an_import():
    root = Path(qwen35_mlx.__file__).parent.parent
    files = [*root.glob("qwen35_mlx/**/*.py"), *root.glob("app/**/*.py")]
    assert len(files) > 50
    pattern = re.compile(r"^\s*(?:from|import) mlx_lm|import_module\(.mlx_lm", re.MULTILINE)
    assert [f for f in files if pattern.search(f.read_text(encoding="utf-8"))] == []


def test_candidates_are_drawn_in_proportion():
    sample = make_sampler(PLAIN.updated({"top_k": 3}), 4)
    mx.random.seed(0)
    drawn = [int(sample(mx.array(LOGITS), EMPTY)) for _ in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(shares, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)


@pytest.mark.parametrize("vocab", [MAX_CANDIDATES, ROW_LENGTH, ROW_LENGTH + 1, 3 * ROW_LENGTH - 1])
@pytest.mark.parametrize("where", ["front", "back", "spread"])
def test_the_largest_logits_are_found_wherever_they_are(vocab, where):
    rng = np.random.default_rng(3)
    logits = rng.permutation(vocab).astype(np.float32) - vocab
    if where != "spread":
        logits = np.sort(logits)
    if where == "front":
        logits = logits[::-1].copy()
    want = np.argsort(-logits)[:MAX_CANDIDATES]
    np.testing.assert_array_equal(np.array(top_k_ids(mx.array(logits), MAX_CANDIDATES)), want)


def test_fewer_possible_tokens_than_top_k():
    logits = mx.full((ROW_LENGTH + 5,), -mx.inf)
    logits[ROW_LENGTH + 2] = 1.0
    sample = make_sampler(PLAIN.updated({"top_k": 20, "top_p": 0.9}), ROW_LENGTH + 5)
    assert {int(sample(logits, EMPTY)) for _ in range(20)} == {ROW_LENGTH + 2}


def test_presence_penalty_counts_a_token_once_from_anywhere_in_the_reply():
    greedy = Sampling(temperature=0.0, presence_penalty=0.6)
    # 0 is ahead of 1 by log(5/3) = 0.51; a long reply must not hide an early token.
    assert draws(greedy, LOGITS, 1) == {0}
    assert draws(greedy, LOGITS, 1, mx.array([0, 0, 0, 0] + [3] * 100)) == {1}
    assert draws(greedy, LOGITS, 1, mx.array([0, 1])) == {0}


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_repetition_penalty_lowers_a_repeated_token_whatever_its_sign(shift):
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    logits = [1.1 + shift, 1.0 + shift]
    assert draws(greedy, logits, 1) == {0}
    assert draws(greedy, logits, 1, mx.array([0])) == {1}
