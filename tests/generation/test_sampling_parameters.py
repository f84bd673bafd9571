"""Sampling parameters: defaults, ranges and messages."""

import math
from fractions import Fraction

import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.generation.sampling_parameters import RANGES, Sampling


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


TINY = 1e-9


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("temperature", [0, 0.0, 1.5, 100 - TINY], [-TINY, 100, 700]),
        ("top_p", [TINY, 0.5, 1], [0, -0.1, 1 + TINY]),
        ("top_k", [0, 1, 20, 20.0, 10**9], [-1, 0.5, 20.5]),
        ("min_p", [0, 0.5, 1], [-TINY, 1 + TINY]),
        ("presence_penalty", [-2, 0, 2], [-2 - TINY, 2 + TINY]),
        ("repetition_penalty", [TINY, 1, 10], [0, -1, 10 + TINY]),
    ],
)
def test_edges_of_every_range(name, allowed, refused):
    for value in allowed:
        assert getattr(Sampling(**{name: value}), name) == value
    never = [math.nan, math.inf, -math.inf, 10**400, 10**5000, Fraction(10**400)]
    never += [True, False, "1", None, [1]]
    for value in [*refused, *never]:
        with pytest.raises(Qwen35Error) as caught:
            Sampling(**{name: value})
        assert str(caught.value) == f"{name} is {shown(value)}: it must be {RANGES[name]}"


def test_every_parameter_has_a_range_and_its_default_is_in_it():
    assert set(RANGES) == set(Sampling.__slots__)
    assert all(bounds.contains(getattr(Sampling(), name)) for name, bounds in RANGES.items())


def test_numbers_of_numpy_are_numbers_and_a_whole_float_becomes_an_int():
    sampling = Sampling(temperature=np.float32(0.5), top_k=20.0)
    assert sampling.temperature == 0.5
    assert isinstance(sampling.top_k, int)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", "a number from 0 to below 100"),
        ("top_p", "a number above 0 and at most 1"),
        ("top_k", "a whole number of 0 or more"),
        ("presence_penalty", "a number from -2 to 2"),
    ],
)
def test_ranges_read_as_english(name, text):
    assert str(RANGES[name]) == text


def test_an_odd_value_does_not_fill_the_error():
    for value in (["x" * 1000] * 10**5, "x" * 10**6, {"a": [[[[[0]]]]]}):
        with pytest.raises(Qwen35Error, match=r"top_k is .*: it must be") as caught:
            Sampling.from_generation_config({"top_k": value})
        assert len(str(caught.value)) < 600
