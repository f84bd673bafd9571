"""Attention of a few tokens to keys and values in 8 bits, against float64 on the same values."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import decode_attention
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.attention import quantized_attention
from tests.kernels.attention_cases import assert_equal_to_one_at_a_time, draw, float64, unpacked
from tests.kernels.cases import relative_error
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")


def packed(k: mx.array, v: mx.array, room: int, group: int = 32) -> tuple[mx.array, ...]:
    """As a buffer with room for more rows, which are filled with large values."""
    arrays = []
    for x in (k, v):
        unused = mx.full((*x.shape[:2], room, x.shape[3]), 1e3, x.dtype)
        arrays += mx.quantize(mx.concatenate([x, unused], axis=2), group, 8)
    return decode_attention.first_rows(arrays, k.shape[2])


def kernel(q, k, v, gate, scale, tail_rows=None, group=32):
    """The kernel on quantised keys and values, the last as its tail; by default its tokens'."""
    tail_rows = tail_rows or q.shape[2]
    before = k.shape[2] - tail_rows
    prefix = packed(k[:, :, :before], v[:, :, :before], 9, group)
    tail = packed(k[:, :, before:], v[:, :, before:], 17, group)
    return decode_attention.kernel(q, prefix, tail, gate, scale)


def fallback(q, k, v, gate, scale):
    rows = (*mx.quantize(k, 32, 8), *mx.quantize(v, 32, 8))
    attended = quantized_attention(q, rows, 8, scale, KernelSelection())
    return decode_attention.apply_gate(attended, gate)


def exact(q, k, v, gate, scale, group=32) -> np.ndarray:
    """In float64, on the values that the packed ones stand for."""
    k, v = (unpacked(*mx.quantize(x, group, 8)) for x in (k, v))
    return float64(q, k, v, gate, scale)


def reference(q, k, v, gate, scale):
    rows = (*mx.quantize(k, 32, 8), *mx.quantize(v, 32, 8))
    return decode_attention.reference_8bit(q, *rows, gate=gate, scale=scale)


@pytest.mark.parametrize("attend", [kernel, reference, fallback])
@pytest.mark.parametrize("keys", [2, 33, 300])
def test_any_number_of_keys(attend, keys):
    inputs = draw(keys)
    assert relative_error(attend(*inputs), exact(*inputs)) < 2e-6


@pytest.mark.parametrize(("tokens", "tail_rows"), [(1, 37), (4, 5), (7, 69)])
def test_any_length_of_the_tail_in_a_batch(tokens, tail_rows):
    """Scales of the tail are not those of the first keys, nor of the other conversation."""
    inputs = draw(70, (4, 2), batch=2, tokens=tokens)
    assert relative_error(kernel(*inputs, tail_rows), exact(*inputs)) < 2e-6


# 160 columns are 5 groups for 20 lanes; in 64 and 32 some lanes have no column.
@pytest.mark.parametrize(
    ("heads", "dim", "group"),
    [((16, 2), 256, 32), ((4, 2), 64, 64), ((3, 1), 160, 32), ((16, 1), 32, 32)],
)
def test_heads_and_groups_of_any_size(heads, dim, group):
    inputs = draw(41, heads, dim)
    got = kernel(*inputs, tail_rows=3, group=group)
    assert relative_error(got, exact(*inputs, group=group)) < 2e-6


def test_groups_of_very_different_scales_and_biases():
    """A scale or bias of a neighbouring group or row would be far off."""
    q, k, v, gate, scale = draw(40, dim=256)
    rng = np.random.default_rng(1)
    shape = (*k.shape[:3], 8, 1)
    sizes = mx.array(10 ** rng.uniform(-2, 0.5, shape).astype(np.float32))
    shifts = mx.array(rng.uniform(-1, 1, shape).astype(np.float32))
    k, v = ((x.reshape(*shape[:4], 32) * sizes + shifts).reshape(k.shape) for x in (k, v))
    inputs = q, k, v, gate, scale
    assert relative_error(kernel(*inputs), exact(*inputs)) < 2e-6


@pytest.mark.parametrize("attend", [kernel, reference])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision(attend, dtype):
    inputs = draw(90, (8, 1), 256, dtype=dtype, tokens=2)
    got = attend(*inputs)
    assert got.dtype == dtype
    assert relative_error(got, exact(*inputs)) < 1e-2


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
def test_tokens_of_one_pass_equal_single_ones_to_the_bit_on_any_machine(kernels):
    inputs = draw(37, (6, 2), 64, tokens=5, dtype=mx.float16)
    assert_equal_to_one_at_a_time(kernel, *inputs, tail_rows=8)
    assert relative_error(kernel(*inputs), exact(*inputs)) < 1e-2


# The last key of the smaller splits is the 64th, of two splits.
@pytest.mark.parametrize(("tokens", "tail_rows"), [(5, 6), (8, 20)])
def test_a_pass_in_which_the_splits_grow_equals_single_tokens(monkeypatch, tokens, tail_rows):
    monkeypatch.setattr(decode_attention, "MAX_THREADGROUPS", 2)
    inputs = draw(66, (4, 1), 32, tokens=tokens)
    assert_equal_to_one_at_a_time(kernel, *inputs, tail_rows=tail_rows)
    assert relative_error(kernel(*inputs, tail_rows), exact(*inputs)) < 2e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_keys_and_values_after_a_token_do_not_reach_it(bad):
    """Their scales and biases are not finite."""
    q, k, v, gate, scale = draw(39, (4, 2), 64, tokens=5, dtype=mx.float16)
    later = mx.arange(39)[:, None] > 36
    spoiled = kernel(q, mx.where(later, bad, k), mx.where(later, bad, v), gate, scale)
    assert mx.array_equal(spoiled[:, :3], kernel(q, k, v, gate, scale)[:, :3])


def test_a_few_scales_are_not_cut():
    """Metal passes arrays of fewer than 8 elements in another address space."""
    one = mx.zeros((1, 1, 256, 32))
    cut = decode_attention.first_rows((*mx.quantize(one, 32, 8), *mx.quantize(one, 32, 8)), 1)
    assert [x.shape[2] for x in cut] == [1, 256, 256, 1, 256, 256]
