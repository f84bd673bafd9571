"""Inputs of products with a few tokens, and the products in float64."""

from functools import partial

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels import matvec
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.row_format import Matrix, dense

FORMATS = [(group, bits) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
MXFP4, MXFP8 = Quantization(32, 4, "mxfp4"), Quantization(32, 8, "mxfp8")
NVFP4 = Quantization(16, 4, "nvfp4")
# Float formats, and matrices that are not quantised, by their dtype.
OTHER_FORMATS = [MXFP4, MXFP8, NVFP4, mx.bfloat16, mx.float16, mx.float32]
EPS = 1e-6


def normal(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape), dtype)


def packed(out: int, width: int, group: int, bits: int, dtype=mx.float32) -> QuantizedWeight:
    w = normal(1, out, width) * width**-0.5
    return QuantizedWeight(*mx.quantize(w.astype(dtype), group, bits), Quantization(group, bits))


def stored(out: int, width: int, form: Quantization | mx.Dtype) -> Matrix:
    """A random matrix; the magnitude of its columns depends on their group of 16."""
    w = normal(1, out, width) * width**-0.5 * (1 + mx.arange(width) // 16 % 3)
    if isinstance(form, Quantization):
        return QuantizedWeight.quantized(w, form)
    return w.astype(form)


def rms(width: int, dtype=mx.float32) -> RMSNorm:
    return RMSNorm(1 + 0.2 * normal(2, width, dtype=dtype), EPS)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def float64(x, w, norm=None, residual=None, *, glu=False) -> np.ndarray:
    """`matvec.reference` without any rounding."""
    rows = wide(x)
    if norm is not None:
        mean = (rows * rows).mean(-1, keepdims=True)
        rows = rows / np.sqrt(mean + norm.eps) * wide(norm.weight)
    y = rows @ wide(dense(w, mx.float32)).T
    if glu:
        gate, up = np.split(y, 2, axis=-1)
        y = gate / (1 + np.exp(-gate)) * up
    return y if residual is None else wide(residual) + y


def one_by_one(x, w, norm=None, residual=None, *, glu=False, variant=matvec.KERNEL) -> mx.array:
    """`matvec.kernel` of each token alone."""
    rows = x.reshape(-1, 1, x.shape[-1])
    sums = [None] * len(rows) if residual is None else residual.reshape(len(rows), 1, -1)
    compute = partial(matvec.kernel, w=w, norm=norm, glu=glu, variant=variant)
    y = [compute(row, residual=add) for row, add in zip(rows, sums, strict=True)]
    return mx.concatenate(y).reshape(*x.shape[:-1], -1)
