"""Edges of single parts that whole-network logits do not cover."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.kernels.delta_net_reference import l2_norm
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection
from qwen35_mlx.model import attention, moe
from qwen35_mlx.model.config import ModelConfig, RopeConfig
from tests.goldens import FOLDER, assert_logits, expected, network


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


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_experts_in_blocks_give_the_same(bits, model_folder: Path, tmp_path: Path, monkeypatch):
    if bits:
        convert(
            model_folder,
            tmp_path / "out",
            quantize=True,
            q_bits=bits,
            q_group_size=32,
            verify=False,
        )
    net = load_network(open_checkpoint(tmp_path / "out" if bits else model_folder))
    prompt = expected("moe")["prompt"][None]
    net.selection.experts_prefill = REFERENCE
    want = np.array(net.logits(net(prompt, net.make_cache())))
    calls, in_blocks = [], moe.ExpertBlocks.in_blocks
    monkeypatch.setattr(moe.ExpertBlocks, "in_blocks", lambda *a: calls.append(a) or in_blocks(*a))
    for variant, rows in moe.BLOCK_ROWS.items():
        net.selection.experts_prefill = variant
        got = np.array(net.logits(net(prompt, net.make_cache())))
        assert [call[2] for call in calls] == [rows] * net.config.num_hidden_layers
        np.testing.assert_allclose(got, want, atol=1e-4)
        calls.clear()
    # Too few assignments for the number of experts.
    monkeypatch.setattr(moe, "BLOCKS_FROM", prompt.size)
    net(prompt, net.make_cache())
    assert calls == []


@pytest.mark.parametrize("width", [3, 4, 6, 64])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_rows_gathered_as_wide_words_are_the_rows(width: int, dtype: mx.Dtype):
    x = mx.random.normal((7, 2 * width)).astype(dtype)[:, :width]  # not contiguous
    index = mx.array([[6, 0], [3, 3]])
    assert mx.array_equal(moe.rows_at(x, index), x[index])


@pytest.mark.parametrize("rows", [1, 4, 32])
@pytest.mark.parametrize(
    "chosen",
    [
        range(8),
        [7] * 50,
        [0] * 33 + [7] * 31,
        [3, 1, 3, 6, 1, 3, 3, 6, 3],
        np.random.default_rng(0).integers(0, 8, 200).tolist(),
        [5],
    ],
)
def test_every_assignment_has_a_row_in_a_block_of_its_expert(chosen, rows):
    experts = np.array(chosen, np.uint32)
    blocks = moe.ExpertBlocks.in_blocks(mx.array(experts), 8, rows)
    assignments, owners, inverse = (
        np.array(a) for a in (blocks.assignments, blocks.experts, blocks.inverse)
    )
    assert assignments.shape == (len(owners), rows)
    assert len(set(inverse.tolist())) == len(chosen)
    np.testing.assert_array_equal(assignments.flatten()[inverse], np.arange(len(chosen)))
    np.testing.assert_array_equal(owners[inverse // rows], experts)
    assert (np.diff(owners) >= 0).all()
    assert owners.max() < 8
    assert assignments.min() >= 0
    assert assignments.max() < len(chosen)


@pytest.mark.parametrize("budget", [1, 4 * 4 * 150 * 7])
def test_attention_in_blocks_of_queries_gives_the_same(monkeypatch, budget):
    monkeypatch.setattr(attention, "SCORE_BUDGET", budget)
    net, want = network("dense"), expected("dense")
    logits = net.logits(net(want["prompt"][None], net.make_cache()))[0]
    assert_logits(logits, want["prefill_logits"])


def test_state_and_decay_stay_float32_in_a_bfloat16_model():
    from qwen35_mlx.model.cache import DeltaState
    from qwen35_mlx.model.kv_cache import KVCache

    net = load_network(open_checkpoint(FOLDER / "dense"), dtype="bfloat16")
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


def test_scores_of_many_blocks_are_not_held_at_once(monkeypatch):
    heads, length, tokens = 4, 4096, 256
    monkeypatch.setattr(attention, "SCORE_BUDGET", 4 * heads * length * tokens // 16)
    q = mx.random.normal((1, heads, tokens, 32))
    k = mx.random.normal((1, 2, length, 32))
    mx.eval(q, k)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(attention.blockwise_attention(q, k, k, 0.2))
    # One block's scores, their softmax and the outputs; sixteen blocks would be 16 MB.
    assert mx.get_peak_memory() - before < 4 * attention.SCORE_BUDGET


@pytest.mark.parametrize("tokens", [attention.FEW_QUERIES, attention.FEW_QUERIES + 1])
def test_the_fused_variant_forces_the_kernel_of_mlx_and_needs_no_blocks(tokens, monkeypatch):
    plain, forced = mx.fast.scaled_dot_product_attention, []

    def kernel(*arrays, force_fused=False, **options):
        forced.append(force_fused)
        return plain(*arrays, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", kernel)
    monkeypatch.setattr(attention, "SCORE_BUDGET", 4 * 4 * 2 * 40 * 4)  # four queries a block
    q, k = mx.random.normal((2, 4, tokens, 32)), mx.random.normal((2, 2, 40, 32))
    want = attention.blockwise_attention(q, k, k[..., ::-1], 0.2)
    forced.clear()
    selection = KernelSelection(prefill_attention=attention.FUSED)
    got = attention.causal_attention(q, k, k[..., ::-1], 0.2, selection)
    few = tokens <= attention.FEW_QUERIES
    assert forced == ([False] * -(-tokens // 4) if few else [True])
    np.testing.assert_allclose(np.array(got), np.array(want), atol=1e-6)


def test_a_missing_fused_kernel_raises_before_anything_is_computed():
    """`operations` relies on this. A CPU never has such a kernel."""
    if mx.default_device() != mx.cpu:
        pytest.skip("this GPU may have one")
    q = mx.zeros((1, 2, 16, 256))
    with pytest.raises(ValueError, match="no fused kernel"):
        attention.fused_attention(q, q, q, 1.0)


def test_yarn_keeps_short_wavelengths_stretches_long_ones_and_scales():
    """The reference implementation's formula, written out for the published sizes."""
    theta, factor, original = 1e7, 4.0, 262144
    small = ModelConfig.from_dict(json.loads((FOLDER / "dense" / "config.json").read_text()))
    scaling = {"factor": factor, "original_max_position_embeddings": original}
    config = replace(small, head_dim=256, rope=RopeConfig(theta, 0.25, scaling))
    pairs = np.arange(32)
    turns = original / (2 * np.pi * theta ** (pairs / 32))
    assert turns[0] > 32
    # Pairs with more than 32 turns keep their frequency; below one turn it is divided by 4.
    first = int(np.floor(32 * np.log(original / (32 * 2 * np.pi)) / np.log(theta)))
    last = int(np.ceil(32 * np.log(original / (2 * np.pi)) / np.log(theta)))
    share = np.clip((pairs - first) / (last - first), 0, 1)
    angle = 1000 * theta ** (-pairs / 32) * (1 - share + share / factor)
    x = np.random.default_rng(0).standard_normal((1, 1, 1, 256))
    want = x.copy()
    a, b = x[..., :32], x[..., 32:64]
    scale = 0.1 * np.log(factor) + 1
    want[..., :32] = scale * (a * np.cos(angle) - b * np.sin(angle))
    want[..., 32:64] = scale * (b * np.cos(angle) + a * np.sin(angle))
    got = attention.make_rope(config)(mx.array(x, mx.float32), 1000)
    np.testing.assert_allclose(np.array(got), want, atol=2e-4)
