"""Plain and quantised matrices, fused projections and expert stacks."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.model.linear import FusedLinear, Linear

mx.random.seed(0)
FORMATS = [
    ("affine", 64, 4),
    ("affine", 32, 8),
    ("mxfp4", 32, 4),
    ("mxfp8", 32, 8),
    ("nvfp4", 16, 4),
]


def quantized(weight: mx.array, mode: str, group: int, bits: int) -> Linear:
    packed, scales, *biases = mx.quantize(weight, group, bits, mode)
    quantization = Quantization(group, bits, mode)
    return Linear(QuantizedWeight(packed, scales, biases[0] if biases else None, quantization))


def draw(*shape: int) -> mx.array:
    return mx.random.normal(shape)


@pytest.mark.parametrize("format", FORMATS)
def test_fused_projections_equal_the_parts(format):
    parts = [quantized(draw(n, 128), *format) for n in (64, 32, 1)]
    fused = FusedLinear(*parts)
    assert fused.matmuls == 1
    x = draw(2, 3, 128)
    for got, part in zip(fused(x), parts, strict=True):
        np.testing.assert_allclose(np.array(got), np.array(part(x)), atol=1e-4)


def test_parts_of_different_formats_are_not_joined_and_keep_their_order():
    parts = [
        Linear(draw(8, 64)),
        Linear(draw(4, 64)),
        quantized(draw(16, 64), "affine", 64, 4),
        quantized(draw(8, 64), "affine", 64, 8),
        Linear(draw(2, 64).astype(mx.bfloat16)),
    ]
    fused = FusedLinear(*parts)
    assert fused.matmuls == 4
    x = draw(5, 64)
    for got, part in zip(fused(x), parts, strict=True):
        np.testing.assert_allclose(np.array(got), np.array(part(x)), atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_rows_equal_the_matrix(format):
    weight = draw(10, 128)
    linear = quantized(weight, *format)
    ids = mx.array([[3, 9], [0, 3]])
    matrix = np.array(linear(mx.eye(128)).T)
    got = np.array(linear.rows(ids, mx.float32))
    np.testing.assert_allclose(got, matrix[np.array(ids)], atol=2e-2)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("format", [None, FORMATS[0]])
def test_gather_takes_each_input_through_its_own_expert(dtype, format):
    stack = draw(4, 32, 64).astype(dtype)
    linear = Linear(stack) if format is None else quantized(stack, *format)
    x = draw(6, 1, 64).astype(dtype)
    experts = mx.array([0, 0, 1, 2, 2, 3])
    got = linear.gather(x, experts, sorted_indices=True)
    assert got.shape == (6, 1, 32)
    assert got.dtype == dtype
    for i, e in enumerate(experts.tolist()):
        one = Linear(stack[e]) if format is None else quantized(stack[e], *format)
        want = np.array(one(x[i]).astype(mx.float32))
        np.testing.assert_allclose(np.array(got[i].astype(mx.float32)), want, atol=0.1, rtol=0.02)
