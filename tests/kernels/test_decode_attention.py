"""Attention of a few tokens, gated, against float64, and against one token at a time."""

import math
from itertools import pairwise

import mlx.core as mx
import pytest

from qwen35_mlx.kernels import decode_attention
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS
from tests.kernels.attention_cases import assert_equal_to_one_at_a_time, draw, float64
from tests.kernels.cases import relative_error
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")


def kernel(q, k, v, gate, scale, tail_rows=None):
    """The kernel, with the last keys and values as its tail; by default those of its tokens."""
    tail_rows = tail_rows or q.shape[2]
    prefix, tail = zip(
        *(mx.split(x, [k.shape[2] - tail_rows], axis=2) for x in (k, v)), strict=True
    )
    return decode_attention.kernel(q, prefix, tail, gate, scale)


IMPLEMENTATIONS = [kernel, decode_attention.reference]


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "keys",
    [
        2,
        decode_attention.KEY_TILE * decode_attention.SIMD_GROUPS + 1,
        decode_attention.MIN_SPLIT_KEYS,
        300,
    ],
)
def test_any_number_of_keys(attend, keys):
    inputs = draw(keys)
    assert relative_error(attend(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize(
    "heads", [(2, 2), (3, 1), (5, 1), (12, 2), (7, 1), (16, 2), (9, 1), (16, 1)]
)
def test_groups_of_query_heads_share_a_kv_head(heads):
    inputs = draw(40, heads, batch=2, room=5)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("tail_rows", [1, 4, 37, 69])
def test_any_length_of_the_tail(tail_rows):
    inputs = draw(70, (4, 2), room=5)
    assert relative_error(kernel(*inputs, tail_rows=tail_rows), float64(*inputs)) < 2e-6


def test_splits_are_limited_by_the_number_of_threadgroups(monkeypatch):
    monkeypatch.setattr(decode_attention, "MAX_THREADGROUPS", 8)
    inputs = draw(700, batch=2)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("tokens", "heads", "tail_rows"),
    [(2, (4, 2), 2), (4, (16, 2), 5), (7, (16, 1), 30), (8, (6, 1), 8)],
)
def test_each_of_a_few_tokens_sees_the_keys_up_to_its_own(attend, tokens, heads, tail_rows):
    inputs = draw(40, heads, batch=2, room=5, tokens=tokens)
    rows = {"tail_rows": tail_rows} if attend is kernel else {}
    assert relative_error(attend(*inputs, **rows), float64(*inputs)) < 2e-6


# Of the keys, the first of a tile, of a split, and of a key group that has none before.
@pytest.mark.parametrize(("keys", "tokens"), [(6, 3), (34, 4), (67, 7)])
@pytest.mark.parametrize("heads", [(4, 1), (8, 1), (16, 1)])
@pytest.mark.parametrize("together", [1, 2])
def test_tokens_of_one_pass_equal_single_ones_to_the_bit(
    keys, tokens, heads, together, monkeypatch
):
    """However many share a threadgroup: in float32, since rounding would hide a difference."""
    geometry = decode_attention._geometry
    monkeypatch.setattr(
        decode_attention, "_geometry", lambda t, *sizes: (geometry(t, *sizes)[0], min(t, together))
    )
    assert_equal_to_one_at_a_time(kernel, *draw(keys, heads, 64, room=2, tokens=tokens))


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
def test_a_pass_equals_single_tokens_on_any_machine(kernels):
    assert_equal_to_one_at_a_time(kernel, *draw(36, (6, 2), 36, tokens=5, dtype=mx.float16))


@pytest.mark.parametrize("heads", [(6, 1), (8, 1), (16, 1)])
def test_tokens_that_share_a_threadgroup_fit_into_its_memory(heads):
    """The emulator has 32 KB, as Apple's GPUs."""
    inputs = draw(9, heads, 256, tokens=2, dtype=mx.bfloat16)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 1e-2


def test_tokens_in_float32_share_no_threadgroup():
    """Compiled for CUDA, a thread takes up to 128 registers in half precision, 148 in float32."""
    threads = {
        dtype: 32 * math.prod(decode_attention._geometry(8, 4, 256, dtype))
        for dtype in (mx.bfloat16, mx.float32)
    }
    assert 128 * threads[mx.bfloat16] <= 65536
    assert 148 * threads[mx.float32] <= 65536


# The last key of the smaller splits is the 64th, of two splits.
@pytest.mark.parametrize(("keys", "tokens", "tail_rows"), [(66, 5, 6), (65, 2, 2), (65, 8, 20)])
def test_a_pass_in_which_the_splits_grow_equals_single_tokens(monkeypatch, keys, tokens, tail_rows):
    monkeypatch.setattr(decode_attention, "MAX_THREADGROUPS", 2)
    inputs = draw(keys, (4, 1), tokens=tokens)
    assert_equal_to_one_at_a_time(kernel, *inputs, tail_rows=tail_rows)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_keys_and_values_after_a_token_do_not_reach_it(bad):
    q, k, v, gate, scale = draw(39, tokens=5, dtype=mx.bfloat16)
    later = mx.arange(39)[:, None] > 36
    spoiled = kernel(q, mx.where(later, bad, k), mx.where(later, bad, v), gate, scale)
    assert mx.array_equal(spoiled[:, :3], kernel(q, k, v, gate, scale)[:, :3])


@pytest.mark.parametrize("max_splits", [1, 16, 64, 128, 256])
def test_splits_are_few_and_grow_seldom(max_splits):
    sizes = [decode_attention.split_size(keys, max_splits) for keys in range(1, 50_000)]
    assert all(-(-keys // size) <= max_splits for keys, size in enumerate(sizes, 1))
    steps = [keys for keys in range(1, len(sizes)) if sizes[keys] != sizes[keys - 1]]
    assert all(b - a > MAX_DECODE_TOKENS for a, b in pairwise(steps))


@pytest.mark.parametrize(
    ("heads", "dim"), [((16, 2), 256), ((8, 2), 64), ((4, 2), 36), ((3, 1), 160)]
)
def test_heads_of_any_size_with_room_to_grow(heads, dim):
    inputs = draw(70, heads, dim, room=26)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("attend", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision(attend, dtype):
    inputs = draw(90, dtype=dtype)
    got = attend(*inputs)
    assert got.dtype == dtype
    assert relative_error(got, float64(*inputs)) < 1e-2


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_the_result_is_rounded_before_the_gate(dtype):
    q, k, v, gate, scale = draw(90, dtype=dtype)
    open_gate = mx.full(gate.shape, 60, dtype)
    share = mx.sigmoid(gate.astype(mx.float32)).astype(dtype).flatten(2)
    want = kernel(q, k, v, open_gate, scale) * share
    assert mx.mean(kernel(q, k, v, gate, scale) == want).item() > 0.99


def test_scores_far_apart_stay_finite():
    q, k, v, gate, scale = draw(50)
    inputs = (100 * q, 10 * k, v, 50 * gate, scale)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 5e-6


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
def test_order_and_contraction_do_not_matter(kernels):
    inputs = draw(45, (8, 2), room=3)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


def test_unsupported_shapes_are_left_to_mlx():
    q, k, *_ = draw(3)
    assert decode_attention.supports(q, k)
    assert decode_attention.supports(mx.repeat(q, 8, axis=2), k)
    assert not decode_attention.supports(mx.repeat(q, 9, axis=2), k)
    assert not decode_attention.supports(q[..., :66], k)
    assert decode_attention.supports(mx.zeros((1, 32, 1, 128)), k)
    assert not decode_attention.supports(mx.zeros((1, 34, 1, 128)), k)
