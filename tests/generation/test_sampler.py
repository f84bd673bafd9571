"""Sampling, against its definitions and against mlx-lm."""

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

import qwen35_mlx
from qwen35_mlx.generation.sampler import (
    MAX_CANDIDATES,
    NOISE_ROWS,
    ROW_LENGTH,
    GumbelNoise,
    Sampler,
    draw_of_candidates,
    draw_of_vocabulary,
    filtered,
    penalised,
    top_k_candidates,
    top_k_ids,
)
from qwen35_mlx.generation.sampling_parameters import Sampling

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0)
EMPTY = mx.array([], dtype=mx.int32)
DRAWS = (draw_of_candidates, draw_of_vocabulary)


def draws(
    sampling: Sampling, logits: list[float], count: int = 400, reply: mx.array = EMPTY
) -> set[int]:
    """All tokens drawn."""
    sample = Sampler(sampling, len(logits))
    return {sample(mx.array([logits]), reply, position).item() for position in range(count)}


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


def mlx_lm_logprobs(logits: mx.array, reply: mx.array, sampling: Sampling, monkeypatch) -> mx.array:
    """The scaled log-probabilities that mlx-lm draws from, [1, vocab]; logits [vocab]."""
    seen: list[mx.array] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            sample_utils,
            "categorical_sampling",
            lambda x, t: seen.append(x * (1 / t)) or mx.argmax(x, -1),
        )
        logits = mlx_lm_penalised(logits, reply, sampling)
        sample_utils.make_sampler(
            temp=sampling.temperature,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            top_k=sampling.top_k if sampling.top_k < logits.size else 0,
        )(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    return seen[0]


def drawn_logits(vocab: int, key: int) -> mx.array:
    """bfloat16, so that many logits are equal."""
    return (4 * mx.random.normal((vocab,), key=mx.random.key(key))).astype(mx.bfloat16)


@pytest.mark.parametrize("vocab", [50, ROW_LENGTH + 1, 20_011])
@pytest.mark.parametrize("top_k", [0, MAX_CANDIDATES + 1, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3, 1e-6])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_filters_are_mlx_lms_to_the_bit(vocab, top_k, top_p, min_p, monkeypatch):
    for temperature, presence, repetition in product((1.0, 0.7, 1.7), (0.0, 1.5), (1.0, 1.3)):
        sampling = Sampling(temperature, top_p, top_k, min_p, presence, repetition)
        logits = drawn_logits(vocab, top_k)
        for count in (0, 1, 30):
            reply = mx.random.randint(0, vocab, (count,), key=mx.random.key(1))
            want = mlx_lm_logprobs(logits, reply, sampling, monkeypatch)
            got = penalised(logits[None], reply, sampling)
            assert mx.array_equal(filtered(got, sampling), want), sampling


@pytest.mark.parametrize("vocab", [50, ROW_LENGTH + 1])
@pytest.mark.parametrize("top_k", [20, 0])
def test_rows_are_filtered_one_by_one(vocab, top_k):
    sampling = Sampling(0.8, 0.9, top_k, 0.01)
    rows = mx.stack([drawn_logits(vocab, key) for key in range(4)])
    together = filtered(rows, sampling)
    for row in range(4):
        assert mx.array_equal(together[row], filtered(rows[row : row + 1], sampling)[0])


@pytest.mark.parametrize(("presence", "repetition"), [(1.5, 1.0), (-2.0, 1.0), (0.0, 1.3), (1, 3)])
def test_penalties_are_mlx_lms_to_the_bit_under_greedy_sampling(presence, repetition):
    sampling = Sampling(0.0, presence_penalty=presence, repetition_penalty=repetition)
    sample = Sampler(sampling, 300)
    reply = mx.array([], dtype=mx.int32)
    for i in range(40):
        logits = drawn_logits(300, i % 3)
        want = mlx_lm_penalised(logits, reply, sampling)
        assert mx.array_equal(penalised(logits[None], reply, sampling), want)
        token = sample(logits[None], reply, i)
        assert token.item() == mx.argmax(want).item()
        reply = mx.concatenate([reply, token])


def test_a_draft_is_penalised_in_the_rows_after_it_alone():
    sampling = Sampling(1.0, presence_penalty=1.5, repetition_penalty=1.3)
    reply = mx.array([3, 5, 3])
    # 7 occurs twice among the drafts, and 5 in the reply as well.
    drafts = mx.array([7, 5, 7, 0])
    rows = mx.stack([drawn_logits(20, key) for key in range(5)])
    together = penalised(rows, reply, sampling, drafts)
    for row in range(5):
        before = mx.concatenate([reply, drafts[:row]])
        assert mx.array_equal(together[row], penalised(rows[row : row + 1], before, sampling)[0])
    assert mx.array_equal(penalised(rows, EMPTY, sampling, drafts)[0], rows[0].astype(mx.float32))


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
    want = np.array(mx.softmax(mlx_lm_logprobs(logits, EMPTY, sampling, monkeypatch)[0]))
    ids, logprobs = top_k_candidates(logits[None], sampling)
    got = np.zeros(vocab)
    got[np.array(ids[0])] = np.array(mx.softmax(logprobs[0]))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_sampling_does_not_import_mlx_lm():
    code = (
        "import sys, mlx.core as mx\n"
        "from qwen35_mlx.generation.sampler import Sampler\n"
        "from qwen35_mlx.generation.sampling_parameters import Sampling\n"
        "for sampling in (Sampling(1.0, 0.9, 20, 0.1), Sampling(1.0, 0.9, 0, 0.1, 1.5, 1.1)):\n"
        "    sample = Sampler(sampling, 5000)\n"
        "    sample(mx.zeros((1, 5000)), mx.array([3], mx.int32), 1).item()\n"
        "sys.exit('mlx_lm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_no_module_of_the_product_names_mlx_lm_in_an_import():
    root = Path(qwen35_mlx.__file__).parent.parent
    files = [*root.glob("qwen35_mlx/**/*.py"), *root.glob("app/**/*.py")]
    assert len(files) > 50
    pattern = re.compile(r"^\s*(?:from|import) mlx_lm|import_module\(.mlx_lm", re.MULTILINE)
    assert [f for f in files if pattern.search(f.read_text(encoding="utf-8"))] == []


def share_of_draws(sampling: Sampling, count: int) -> np.ndarray:
    sample = Sampler(sampling, 4)
    rows = mx.broadcast_to(mx.array(LOGITS), (8, 4))
    drawn = [np.array(sample(rows, EMPTY, position)) for position in range(0, count, 8)]
    return np.bincount(np.concatenate(drawn), minlength=4) / count


@pytest.mark.parametrize("top_k", [3, 0])
def test_tokens_are_drawn_in_proportion(top_k):
    want = np.array([0.5, 0.3, 0.15, 0]) / 0.95 if top_k else [0.5, 0.3, 0.15, 0.05]
    shares = share_of_draws(PLAIN.updated({"top_k": top_k}), 8000)
    np.testing.assert_allclose(shares, want, atol=0.02)


@pytest.mark.parametrize("vocab", [50, ROW_LENGTH + 1])
def test_candidates_are_drawn_as_from_the_whole_vocabulary(vocab):
    sampling = PLAIN.updated({"top_k": 20, "top_p": 0.9, "min_p": 0.01, "temperature": 1.3})
    rows = 4 * mx.random.normal((8, vocab), key=mx.random.key(2))
    noise = GumbelNoise(vocab, 3)
    for position in range(0, 400, 8):
        drawn = [draw(rows, noise.rows(position, 8), sampling) for draw in DRAWS]
        assert mx.array_equal(*drawn)


def test_noise_depends_on_seed_and_position_alone():
    noise = GumbelNoise(30, 5)
    whole = noise.rows(0, 3 * NOISE_ROWS)
    for position in (0, 1, NOISE_ROWS - 1, NOISE_ROWS, 2 * NOISE_ROWS + 3, 2):
        for count in (1, 2, NOISE_ROWS):
            got = GumbelNoise(30, 5).rows(position, count)
            assert mx.array_equal(got, noise.rows(position, count))
            if position + count <= whole.shape[0]:
                assert mx.array_equal(got, whole[position : position + count])
    assert not mx.array_equal(whole, GumbelNoise(30, 6).rows(0, 3 * NOISE_ROWS))
    assert len({tuple(row) for row in whole.tolist()}) == 3 * NOISE_ROWS


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
    found = top_k_ids(mx.array(np.stack([logits[::-1], logits])), MAX_CANDIDATES)
    np.testing.assert_array_equal(np.array(found[1]), want)
    np.testing.assert_array_equal(np.array(found[0]), vocab - 1 - want)


def test_fewer_possible_tokens_than_top_k():
    logits = mx.full((ROW_LENGTH + 5,), -mx.inf)
    logits[ROW_LENGTH + 2] = 1.0
    sample = Sampler(PLAIN.updated({"top_k": 20, "top_p": 0.9}), ROW_LENGTH + 5)
    found = sample(mx.broadcast_to(logits, (20, ROW_LENGTH + 5)), EMPTY, 0)
    assert set(found.tolist()) == {ROW_LENGTH + 2}


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
