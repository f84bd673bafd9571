"""One token times a quantised matrix, with the norm before it and the residual sum after it.

Launch overhead and reading the matrices dominate a layer at one token, so all of it is one
dispatch.
"""

from collections.abc import Callable

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import QuantizedWeight, simd_groups_for

# For `KernelSelection.matmul_decode`.
KERNEL = "one dispatch"
# Rows of the matrix per threadgroup. Each threadgroup reads and norms all of x, so as many as there
# are registers for.
ROWS_PER_THREADGROUP = 8

_KERNEL = Kernel(
    "matvec",
    inputs=("x", "w", "scales", "biases", "norm_weight", "residual"),
    outputs=("y",),
)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, in the dtype of both."""
    return gate * mx.sigmoid(gate) * up


def reference(
    x: mx.array,
    multiply: Callable[[mx.array], mx.array],
    norm: RMSNorm | None = None,
    residual: mx.array | None = None,
    *,
    glu: bool = False,
) -> mx.array:
    """[residual +] multiply([norm](x)) in plain MLX, for any number of tokens.

    Args:
        x: [..., in]
        multiply: by a matrix: [..., in] -> [..., out].
        residual: [..., out], of x's dtype.
        glu: take the product as gate and up, half of it each, and return silu(gate) * up,
            [..., out / 2].
    """
    y = multiply(x if norm is None else norm(x))
    if glu:
        y = swiglu(*mx.split(y, 2, axis=-1))
    return y if residual is None else residual + y


def supports(x: mx.array, w: QuantizedWeight) -> bool:
    """Whether `kernel` can compute it: one token, and an affine matrix of 4 or 8 bits.

    Scales and the norm's weight may be of other dtypes than x.
    """
    q = w.quantization
    return (
        x.size == x.shape[-1]
        and w.weight.ndim == 2
        and q.mode == "affine"
        and q.bits in (4, 8)
        and q.group_size in (32, 64, 128)
        # Metal passes fewer words in the constant address space, which the body's casts rule out.
        and w.weight.size >= 8
    )


def kernel(
    x: mx.array,
    w: QuantizedWeight,
    norm: RMSNorm | None = None,
    residual: mx.array | None = None,
    *,
    glu: bool = False,
) -> mx.array:
    """`reference` with this matrix, if it `supports` it; float32 from the norm to the product.

    The offset of x in its buffer must be a multiple of 4 values, as it is for all that a layer
    computes.
    """
    width = x.shape[-1]
    q = w.quantization
    # An input that the body does not read still needs an array: x.
    norm_weight = x if norm is None else norm.weight
    halves = 2 if glu else 1
    out = w.scales.shape[0] // halves
    outputs = ROWS_PER_THREADGROUP // halves
    simd_groups = simd_groups_for(width, q.bits)
    launch = Launch(
        threadgroups=-(-out // outputs),
        threads=SIMD_WIDTH * simd_groups,
        outputs=[((*x.shape[:-1], out), x.dtype)],
        constants={
            "InT": x.dtype,
            "NormT": norm_weight.dtype,
            "IN": width,
            "OUT": out,
            "BITS": q.bits,
            "GS": q.group_size,
            "OUTPUTS": outputs,
            "SIMD_GROUPS": simd_groups,
            "NORM": int(norm is not None),
            "EPS": float_bits(norm.eps if norm else 0.0),
            "RESIDUAL": int(residual is not None),
            "GLU": int(glu),
        },
    )
    residual = x if residual is None else residual
    (y,) = _KERNEL([x, *w.arrays, norm_weight, residual], launch)
    return y
