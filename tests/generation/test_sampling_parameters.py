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
    ("config", "meant"),
    [
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": -1.0}, {"top_k": 0}),
        ({"top_k": "-1"}, {"top_k": 0}),
        ({"top_k": 20.0}, {"top_k": 20}),
        ({"top_k": "30"}, {"top_k": 30}),
        ({"temperature": "0.6", "top_p": "1e-1"}, {"temperature": 0.6, "top_p": 0.1}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": None, "top_k": None, "min_p": None, "do_sample": None}, {}),
        ({"do_sample": True, "temperature": 0.3}, {"temperature": 0.3}),
        (
            {"do_sample": False, "temperature": 0.3, "repetition_penalty": 1.1},
            {"temperature": 0.0, "repetition_penalty": 1.1},
        ),
        ({"do_sample": "false"}, {"temperature": 0.0}),
        ({"do_sample": 0}, {"temperature": 0.0}),
        ({"max_new_tokens": 8, "eos_token_id": [1], "suppress_tokens": {}, "seed": "x"}, {}),
    ],
    ids=shown,
)
def test_a_generation_config_is_read_as_meant(config, meant):
    assert Sampling.from_generation_config(config) == Sampling().updated(meant)


@pytest.mark.parametrize(
    "config",
    [
        {"top_k": -2},
        {"top_k": "20.5"},
        {"top_k": "many"},
        {"temperature": "nan"},
        {"temperature": "1e400"},
        {"temperature": ""},
        {"temperature": "1" * 5000},
        {"temperature": True},
        {"top_p": [0.9]},
        {"top_p": {"value": 0.9}},
        {"do_sample": False, "top_p": 0},
    ],
    ids=shown,
)
def test_a_generation_config_that_means_nothing_is_named(config):
    name = next(name for name in RANGES if name in config)
    with pytest.raises(Qwen35Error, match=rf"generation_config\.json: {name} is ") as caught:
        Sampling.from_generation_config(config)
    assert len(str(caught.value)) < 300


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
