import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling import Sampling, make_chooser

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0)
NOTHING_SAID = mx.array([], dtype=mx.int32)


def draws(
    sampling: Sampling, logits: list[float], count: int = 400, reply: mx.array = NOTHING_SAID
) -> set[int]:
    """All tokens that come up."""
    mx.random.seed(0)
    choose = make_chooser(sampling, len(logits))
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
        ({"min_p": 1.0}, "min_p is 1.0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"temprature": 1}, "'temprature' is not a sampling parameter"),
    ],
)
def test_bad_values_are_named(change, words):
    with pytest.raises(Qwen35Error, match=words):
        Sampling().updated(change)


def test_none_leaves_the_default():
    assert Sampling().updated({"top_k": None}) == Sampling()
