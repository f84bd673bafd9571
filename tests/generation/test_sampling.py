import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampler import (
    MOST_CANDIDATES,
    ROW,
    candidates,
    likeliest,
    make_sampler,
    plain_sampler,
)
from qwen35_mlx.generation.sampling import Sampling

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0)
NOTHING_SAID = mx.array([], dtype=mx.int32)


def draws(
    sampling: Sampling, logits: list[float], count: int = 400, reply: mx.array = NOTHING_SAID
) -> set[int]:
    """All tokens that come up."""
    mx.random.seed(0)
    choose = make_sampler(sampling, len(logits))
    return {int(choose(mx.array(logits), reply).item()) for _ in range(count)}


LOGITS = np.log([0.5, 0.3, 0.15, 0.05]).tolist()


def test_temperature_zero_takes_the_likeliest():
    assert draws(Sampling(temperature=0.0), LOGITS) == {0}


def test_nothing_filtered_lets_everything_come_up():
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
def test_filters_keep_what_their_definition_says(change, left):
    assert draws(PLAIN.updated(change), LOGITS) == left


def mlx_lm_probabilities(logits: mx.array, sampling: Sampling, monkeypatch) -> np.ndarray:
    """What mlx-lm's chain would draw from, [vocab]."""
    from mlx_lm import sample_utils

    seen: list[mx.array] = []
    monkeypatch.setattr(
        sample_utils, "categorical_sampling", lambda x, t: seen.append(x / t) or mx.argmax(x, -1)
    )
    plain_sampler(sampling, logits.size)(logits, NOTHING_SAID)
    return np.array(mx.softmax(seen[0].squeeze(0)))


@pytest.mark.parametrize("vocab", [50, ROW, ROW + 1, 20_011])
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
def test_candidates_are_what_mlx_lm_would_draw_from(vocab, change, monkeypatch):
    sampling = PLAIN.updated(change)
    logits = 4 * mx.random.normal((vocab,), key=mx.random.key(vocab))
    want = mlx_lm_probabilities(logits, sampling, monkeypatch)
    ids, logprobs = candidates(logits, sampling)
    got = np.zeros(vocab)
    got[np.array(ids)] = np.array(mx.softmax(logprobs))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_draw_among_few_does_not_wait_for_mlx_lm_to_be_imported():
    code = (
        "import sys, mlx.core as mx\n"
        "from qwen35_mlx.generation.sampler import make_sampler\n"
        "from qwen35_mlx.generation.sampling import Sampling\n"
        "choose = make_sampler(Sampling(1.0, 0.9, 20, 0.1), 5000)\n"
        "choose(mx.zeros(5000), mx.array([], mx.int32)).item()\n"
        "sys.exit('mlx_lm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_candidates_are_drawn_in_proportion():
    choose = make_sampler(PLAIN.updated({"top_k": 3}), 4)
    mx.random.seed(0)
    drawn = [int(choose(mx.array(LOGITS), NOTHING_SAID)) for _ in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(shares, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)


@pytest.mark.parametrize("vocab", [MOST_CANDIDATES, ROW, ROW + 1, 3 * ROW - 1])
@pytest.mark.parametrize("where", ["front", "back", "spread"])
def test_the_likeliest_are_found_wherever_they_are(vocab, where):
    rng = np.random.default_rng(3)
    logits = rng.permutation(vocab).astype(np.float32) - vocab
    if where != "spread":
        logits = np.sort(logits)
    if where == "front":
        logits = logits[::-1].copy()
    want = np.argsort(-logits)[:MOST_CANDIDATES]
    np.testing.assert_array_equal(np.array(likeliest(mx.array(logits), MOST_CANDIDATES)), want)


def test_fewer_tokens_that_can_come_up_than_top_k_asks_for():
    logits = mx.full((ROW + 5,), -mx.inf)
    logits[ROW + 2] = 1.0
    choose = make_sampler(PLAIN.updated({"top_k": 20, "top_p": 0.9}), ROW + 5)
    assert {int(choose(logits, NOTHING_SAID)) for _ in range(20)} == {ROW + 2}


def test_presence_penalty_counts_a_said_token_once_from_anywhere_in_the_reply():
    greedy = Sampling(temperature=0.0, presence_penalty=0.6)
    # 0 is ahead of 1 by log(5/3) = 0.51; a long reply must not hide that it was said.
    assert draws(greedy, LOGITS, 1) == {0}
    assert draws(greedy, LOGITS, 1, mx.array([0, 0, 0, 0] + [3] * 100)) == {1}
    assert draws(greedy, LOGITS, 1, mx.array([0, 1])) == {0}


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_repetition_penalty_lowers_a_said_token_whatever_its_sign(shift):
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    logits = [1.1 + shift, 1.0 + shift]
    assert draws(greedy, logits, 1) == {0}
    assert draws(greedy, logits, 1, mx.array([0])) == {1}


def test_defaults_come_from_generation_config():
    config = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True, "eos_token_id": 3}
    got = Sampling.from_generation_config(config)
    assert (got.temperature, got.top_p, got.top_k) == (0.6, 0.95, 20)
    assert Sampling.from_generation_config({"do_sample": False}).temperature == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_k": -5}, "top_k is -5"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"temprature": 1}, "'temprature' is not a sampling parameter"),
    ],
)
def test_bad_values_are_named(change, words):
    with pytest.raises(Qwen35Error, match=words):
        Sampling().updated(change)


def test_none_leaves_the_default():
    assert Sampling().updated({"top_k": None}) == Sampling()
