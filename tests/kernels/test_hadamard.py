"""The signed Walsh-Hadamard rotation against its definition in float64."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels.hadamard import HadamardRotation
from tests.kernels.cases import hadamard, relative_error

BLOCKS = [512, 1024, 2048, 4096, 8192]


def signs(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], width)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_the_order_is_natural():
    """The sign at (i, j) is the parity of the bits that i and j share."""
    shared = np.arange(512)[:, None] & np.arange(512)
    parity = np.bitwise_count(shared) % 2
    rotation = HadamardRotation(512, mx.ones((512,)))
    want = (1.0 - 2 * parity) / np.sqrt(512)
    np.testing.assert_allclose(np.array(rotation(mx.eye(512))), want, atol=1e-7)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_of_a_row_is_rotated_by_itself(block):
    width = 2 * block
    x, s = draw(3, 1, width), signs(width)
    got = HadamardRotation(block, mx.array(s, mx.float32))(mx.array(x))
    assert got.shape == x.shape
    assert relative_error(got, hadamard(x * s, block)) < 2e-6


@pytest.mark.parametrize("block", BLOCKS)
def test_the_inverse_rotates_back(block):
    x, s = draw(5, 3 * block), signs(3 * block)
    rotated = hadamard(x * s, block)
    rotation = HadamardRotation(block, mx.array(s, mx.float32))
    assert relative_error(rotation.inverse(mx.array(rotated, mx.float32)), x) < 2e-6


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("inverse", [False, True])
def test_half_precision_is_rounded_once(dtype, inverse):
    """At most the half unit of the result's own rounding; half-precision sums lose several."""
    block, s = 4096, signs(4096)
    x = mx.array(draw(4, block), dtype)
    rotation = HadamardRotation(block, mx.array(s, mx.float32))
    got = rotation.inverse(x) if inverse else rotation(x)
    assert got.dtype == dtype
    wide = np.array(x.astype(mx.float32), np.float64)
    want = hadamard(wide, block) * s if inverse else hadamard(wide * s, block)
    unit = 2.0**-8 if dtype == mx.bfloat16 else 2.0**-11
    error = np.abs(np.array(got.astype(mx.float32)) - want)
    assert (error <= 1.01 * unit * np.abs(want) + 1e-6).all()


def test_rotations_are_equal_by_value():
    s = mx.array(signs(1024), mx.float32)
    rotation = HadamardRotation(512, s)
    assert rotation == HadamardRotation(512, s + 0)
    assert rotation != HadamardRotation(1024, s)
    assert rotation != HadamardRotation(512, mx.where(mx.arange(1024) == 1023, -s, s))
    assert rotation != HadamardRotation(512, s[:512])
