"""Attention of one token, gated, against float64."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import decode_attention
from tests.kernels.cases import relative_error
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")


def kernel(q, k, v, gate, scale, late=1):
    """The last keys and values apart from the others."""
    rows, apart = zip(*(mx.split(x, [k.shape[2] - late], axis=2) for x in (k, v)), strict=True)
    return decode_attention.kernel(q, rows, apart, gate, scale)


FORMS = [kernel, decode_attention.reference]


def draw(keys, heads=(4, 2), dim=128, batch=1, dtype=mx.float32, room=0, seed=0):
    """q, k, v, gate and scale; keys and values with room to grow, the gate beside its query."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)

    q = normal(batch, heads[0], 1, dim)
    k, v = (normal(batch, heads[1], keys + room, dim)[:, :, :keys] for _ in range(2))
    gate = normal(batch, 1, heads[0], 2 * dim)[..., dim:]
    return q, k, v, gate, dim**-0.5


def float64(q, k, v, gate, scale) -> np.ndarray:
    q, k, v, gate = (np.array(x.astype(mx.float32), np.float64) for x in (q, k, v, gate))
    grouped = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, grouped, axis=1) for x in (k, v))
    scores = scale * (q @ k.swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    out = out.swapaxes(1, 2) / (1 + np.exp(-gate))
    return out.reshape(*out.shape[:2], -1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "keys", [2, decode_attention.KEYS * decode_attention.SIMDS + 1, decode_attention.SPAN, 300]
)
def test_any_number_of_keys(form, keys):
    inputs = draw(keys)
    assert relative_error(form(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("heads", [(2, 2), (3, 1), (5, 1), (12, 2), (7, 1), (16, 2)])
def test_query_heads_share_key_heads_in_runs(heads):
    inputs = draw(40, heads, batch=2, room=5)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("late", [1, 4, 37, 69])
def test_the_latest_keys_may_lie_apart(late):
    inputs = draw(70, (4, 2), room=5)
    assert relative_error(kernel(*inputs, late=late), float64(*inputs)) < 2e-6


def test_no_more_threadgroups_than_wanted(monkeypatch):
    monkeypatch.setattr(decode_attention, "MOST_GROUPS", 8)
    inputs = draw(700, batch=2)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


def test_stretches_without_a_key(monkeypatch):
    monkeypatch.setattr(decode_attention, "MOST_GROUPS", 8)
    monkeypatch.setattr(decode_attention, "SPAN", 1)
    inputs = draw(5)  # in four stretches of two
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize(
    ("heads", "dim"), [((16, 2), 256), ((8, 2), 64), ((4, 2), 36), ((3, 1), 160)]
)
def test_heads_of_any_size_with_room_to_grow(heads, dim):
    inputs = draw(70, heads, dim, room=26)
    assert relative_error(kernel(*inputs), float64(*inputs)) < 2e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision(form, dtype):
    inputs = draw(90, dtype=dtype)
    got = form(*inputs)
    assert got.dtype == dtype
    assert relative_error(got, float64(*inputs)) < 1e-2


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_what_is_attended_is_rounded_before_the_gate(dtype):
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


def test_what_the_kernel_does_not_do_is_left_to_mlx():
    q, k, *_ = draw(3)
    assert decode_attention.fits(q, k)
    assert not decode_attention.fits(mx.concatenate([q, q], axis=2), k)
    assert not decode_attention.fits(q[..., :66], k)
    assert not decode_attention.fits(mx.zeros((1, 32, 1, 128)), k)
