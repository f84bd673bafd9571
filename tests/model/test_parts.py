"""Edges of single parts that whole-network logits do not catch."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels.delta_net import l2_norm
from qwen35_mlx.model import attention, moe
from tests.goldens import assert_logits, expected, network


def test_l2_norm_epsilon_is_on_the_sum_of_squares():
    x = np.random.default_rng(0).standard_normal((5, 128)) * 1e-4
    want = x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.array(l2_norm(mx.array(x, mx.float32))), want, rtol=1e-5)
    assert mx.all(l2_norm(mx.zeros((2, 128))) == 0).item()


@pytest.mark.parametrize("sort_from", [1, 1 << 30])
def test_experts_sorted_or_not_give_the_same(monkeypatch, sort_from):
    monkeypatch.setattr(moe, "SORT_FROM", sort_from)
    net, want = network("moe"), expected("moe")
    logits = net.logits(net(want["prompt"][None], net.make_cache()))[0]
    assert_logits(logits, want["prefill_logits"])


@pytest.mark.parametrize("budget", [1, 4 * 4 * 150 * 7])
def test_attention_in_blocks_of_queries_gives_the_same(monkeypatch, budget):
    monkeypatch.setattr(attention, "SCORE_BUDGET", budget)
    net, want = network("dense"), expected("dense")
    logits = net.logits(net(want["prompt"][None], net.make_cache()))[0]
    assert_logits(logits, want["prefill_logits"])


def test_state_and_decay_stay_float32_in_a_bfloat16_model():
    from qwen35_mlx.checkpoint.layouts import Checkpoint
    from qwen35_mlx.checkpoint.load import load_network
    from qwen35_mlx.model.cache import DeltaState, KVCache
    from tests.goldens import FOLDER

    net = load_network(Checkpoint.open(FOLDER / "dense"), dtype="bfloat16")
    cache = net.make_cache()
    logits = net.logits(net(expected("dense")["prompt"][None], cache))
    assert logits.dtype == mx.bfloat16
    for layer in cache.layers:
        if isinstance(layer, DeltaState):
            assert layer.recurrent is not None
            assert layer.conv is not None
            assert layer.recurrent.dtype == mx.float32
            assert layer.conv.dtype == mx.bfloat16
        else:
            assert isinstance(layer, KVCache)
            assert {a.dtype for a in layer.arrays} == {mx.bfloat16}
    want = np.array(expected("dense")["prefill_logits"])
    got = np.array(logits[0].astype(mx.float32))
    assert np.abs(got - want).mean() < 0.05
