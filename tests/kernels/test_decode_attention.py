"""Attention of one token, gated, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import decode_attention
from tests.kernels.cases import relative_error
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")


def kernel(q, k, v, gate, scale, tail_rows=1):
    """The kernel, with the last keys and values as its tail."""
    prefix, tail = zip(
        *(mx.split(x, [k.shape[2] - tail_rows], axis=2) for x in (k, v)), strict=True
    )
    return decode_attention.kernel(q, prefix, tail, gate, scale)


IMPLEMENTATIONS = [kernel, decode_attention.reference]


def draw(keys, heads=(4, 2), dim=128, batch=1, dtype=mx.float32, room=0, seed=0):
    """q, k, v, gate and scale; k and v are views of buffers with `room` more rows."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)

    q = normal(batch, heads[0], 1, dim)
    k, v = (normal(batch, heads[1], keys + room, dim)[:, :, :keys] for _ in range(2))
    gate = normal(batch, 1, heads[0], 2 * dim)[..., dim:]
    return q, k, v, gate, dim**-0.5


def float64(q, k, v, gate, scale) -> np.ndarray:
    q, k, v, gate = (np.array(x.astype(mx.float32), np.float64) for x in (q, k, v, gate))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = scale * (q @ k.swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    out = out.swapaxes(1, 2) / (1 + np.exp(-gate))
    return out.reshape(*out.shape[:2], -1)


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


@pytest.mark.parametrize("heads", [(2, 2), (3, 1), (5, 1), (12, 2), (7, 1), (16, 2)])
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


def test_splits_without_a_key(monkeypatch):
    monkeypatch.setattr(decode_attention, "MAX_THREADGROUPS", 8)
    monkeypatch.setattr(decode_attention, "MIN_SPLIT_KEYS", 1)
    inputs = draw(5)  # in four splits of two
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


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
    assert not decode_attention.supports(mx.concatenate([q, q], axis=2), k)
    assert not decode_attention.supports(q[..., :66], k)
    assert not decode_attention.supports(mx.zeros((1, 32, 1, 128)), k)
