"""The emulator on the kernels of mlx-lm, whose gated delta rule agrees with its plain ops.

The bodies are those of the installed mlx-lm: its builders run with `emulated` in place of
`mx.fast.metal_kernel`.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gated_delta

from tests.metal_emulator import MACHINES, PLAIN, Machine, emulated
from tests.metal_emulator.cases import needs_emulator

pytestmark = needs_emulator

Build = Callable[..., Callable[..., tuple[mx.array, mx.array]]]

# Batch, tokens, key heads, value heads, dk, dv.
SHAPES = [(1, 1, 1, 1, 32, 4), (2, 5, 1, 2, 64, 8), (1, 64, 2, 4, 128, 128), (1, 3, 1, 3, 256, 6)]
DTYPES = [mx.float32, mx.bfloat16, mx.float16]
# About one rounding step of each type: the ops round products to it, the kernels keep float32.
TOLERANCE = {mx.float32: 2e-6, mx.bfloat16: 1e-2, mx.float16: 1e-3}


@pytest.fixture
def kernels(monkeypatch) -> Build:
    """mlx-lm's own dispatch, with every kernel emulated on the given machine."""

    def build(machine: Machine = PLAIN, packed: bool = True):
        def metal_kernel(**text):
            return emulated(**text, machine=machine)

        with monkeypatch.context() as patch:
            patch.setattr(mx.metal, "is_available", lambda: True)
            patch.setattr(mx.fast, "metal_kernel", metal_kernel)
            made = {
                f"_gated_delta_kernel{vec}{mask}": gated_delta._make_gated_delta_kernel(
                    has_mask=bool(mask), vectorized=bool(vec)
                )
                for vec in ("", "_vec")
                for mask in ("", "_masked")
            }
            made["_gated_delta_kernel_packed"] = gated_delta._make_gated_delta_packed_kernel()
            made["_gated_delta_kernel_xtree"] = gated_delta._make_gated_delta_kernel_xtree()
        for name, kernel in made.items():
            monkeypatch.setattr(gated_delta, name, kernel)
        return gated_delta.gated_delta_kernel if packed else gated_delta.gated_delta_kernel_unpacked

    return build


def draw(shape, dtype=mx.float32, vector=False, masked=False) -> list:
    """q, k, v, g, beta, state and a mask, as mlx-lm's functions take them."""
    batch, tokens, key_heads, value_heads, dk, dv = shape
    rng = np.random.default_rng(7)

    def normal(*sizes: int) -> mx.array:
        return mx.array(rng.standard_normal(sizes, np.float32))

    q, k = normal(2, batch, tokens, key_heads, dk)
    q, k = (x / mx.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    v = normal(batch, tokens, value_heads, dv)
    g = mx.exp(-mx.abs(normal(batch, tokens, value_heads, *[dk] * vector)))
    beta = mx.sigmoid(normal(batch, tokens, value_heads))
    state = normal(batch, value_heads, dv, dk)
    mask = mx.array(rng.integers(0, 2, (batch, tokens)).astype(bool)) if masked else None
    return [*(x.astype(dtype) for x in (q, k, v)), g, beta.astype(dtype), state, mask]


def assert_close(result: tuple[mx.array, mx.array], case, dtype=mx.float32) -> None:
    """Against the ops; y only where the mask is set, since the kernel writes zeros elsewhere."""
    want_y, want_state = gated_delta.gated_delta_ops(*case)
    y, state = result
    if case[-1] is not None:
        visible = case[-1][..., None, None]
        assert not mx.any(mx.where(visible, 0, y)).item()
        y, want_y = mx.where(visible, y, 0), mx.where(visible, want_y, 0)
    assert (y.dtype, state.dtype) == (want_y.dtype, want_state.dtype)
    for got, want, tolerance in ((y, want_y, TOLERANCE[dtype]), (state, want_state, 2e-6)):
        difference = np.array(got.astype(mx.float32)) - np.array(want.astype(mx.float32))
        assert np.abs(difference).max() < tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("vector", [False, True], ids=["", "vector"])
def test_step_kernels_agree_with_the_ops(kernels, shape, vector, masked):
    case = draw(shape, vector=vector, masked=masked)
    assert_close(kernels(packed=False)(*case), case)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=["bfloat16", "float16"])
def test_half_precisions(kernels, dtype):
    case = draw(SHAPES[1], dtype)
    assert_close(kernels(packed=False)(*case), case, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16", "float16"])
def test_packed_kernel(kernels, dtype):
    case = draw((2, 9, 1, 2, 128, 16), dtype)
    assert_close(kernels()(*case), case, dtype)


def test_packed_kernel_equals_its_comparator_bit_for_bit(kernels):
    # As mlx-lm documents it. Contraction is off, since it may differ between two compilations.
    *case, _ = draw((1, 9, 1, 2, 128, 16))
    packed = kernels(Machine(contract=False))(*case)
    xtree = gated_delta.gated_delta_kernel_xtree(*case)
    assert all(mx.array_equal(a, b).item() for a, b in zip(packed, xtree, strict=True))


@pytest.mark.parametrize("packed", [False, True], ids=["step", "packed"])
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_machine_within_tolerance(kernels, machine, packed):
    case = draw((1, 16, 1, 2, 128, 32))
    assert_close(kernels(machine, packed)(*case), case)


def test_the_order_of_a_sum_changes_the_result(kernels):
    # Otherwise the test above would prove nothing.
    *case, _ = draw((1, 4, 1, 2, 128, 32))
    results = [kernels(Machine(sums=sums), False)(*case)[0] for sums in (0, 1, 2)]
    assert not mx.array_equal(results[0], results[1]).item()
    assert not mx.array_equal(results[0], results[2]).item()
