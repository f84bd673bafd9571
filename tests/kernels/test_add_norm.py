"""The residual sum and its norm against float64."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import add_norm
from tests.kernels.cases import relative_error

pytestmark = pytest.mark.usefixtures("kernels")
EPS = 1e-6


def draw(rows: int, width: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
    rng = np.random.default_rng(rows * width)
    x, y = (mx.array(rng.standard_normal((1, rows, width)), dtype) for _ in range(2))
    return x, y, mx.array(1 + 0.2 * rng.standard_normal(width), dtype)


def float64(x: mx.array, y: mx.array, weight: mx.array) -> np.ndarray:
    """The norm of the sum as it is rounded."""
    both = np.array((x + y).astype(mx.float32), np.float64)
    scale = 1 / np.sqrt((both * both).mean(-1, keepdims=True) + EPS)
    return both * scale * np.array(weight.astype(mx.float32), np.float64)


@pytest.mark.parametrize("form", [add_norm.kernel, add_norm.reference])
@pytest.mark.parametrize("width", [32, 255, 257, 2048])
@pytest.mark.parametrize("rows", [1, 3, add_norm.STEP_ROWS])
def test_widths_around_a_threadgroup(form, width, rows):
    x, y, weight = draw(rows, width, mx.float32)
    both, normed = form(x, y, weight, EPS)
    assert mx.array_equal(both, x + y)
    assert relative_error(normed, float64(x, y, weight)) < 2e-6


@pytest.mark.parametrize("form", [add_norm.kernel, add_norm.reference])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_rounds_the_sum_first(form, dtype):
    x, y, weight = draw(2, 256, dtype)
    both, normed = form(x, y, weight, EPS)
    assert (both.dtype, normed.dtype) == (dtype, dtype)
    assert mx.array_equal(both, x + y)
    assert relative_error(normed, float64(x, y, weight)) < 1e-2


def test_rows_near_zero_are_not_blown_up():
    x, y, weight = (1e-5 * part for part in draw(2, 64, mx.float32))
    _, normed = add_norm.kernel(x, y, weight, EPS)
    assert relative_error(normed, float64(x, y, weight)) < 2e-6
