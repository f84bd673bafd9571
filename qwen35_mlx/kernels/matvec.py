"""One token through a packed matrix, with the norm before it and the sum after it in one dispatch.

At one token a layer is bound by its launches and by how fast its matrices are read.
"""

from collections.abc import Callable

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD, Kernel, Launch, float_bits
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import QuantizedWeight, simds_for

# For `KernelSelection.matmul_decode`.
KERNEL = "one dispatch"
# Rows of the matrix per threadgroup: as many as registers hold loads of, since each threadgroup
# reads and norms all of x.
LINES = 8

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
    """[residual +] multiply([norm](x)), in plain MLX and for any number of tokens.

    Args:
        x: [..., in]
        multiply: by a matrix: [..., in] -> [..., out].
        residual: [..., out], of x's dtype.
        glu: the product is two halves, a gate and what it lets through: silu(gate) * up is taken
            for it, [..., out / 2].
    """
    y = multiply(x if norm is None else norm(x))
    if glu:
        y = swiglu(*mx.split(y, 2, axis=-1))
    return y if residual is None else residual + y


def fits(x: mx.array, w: QuantizedWeight, norm: RMSNorm | None = None) -> bool:
    """Whether `kernel` can do it: one token, and an affine matrix of 4 or 8 bits."""
    how = w.quantization
    return (
        x.size == x.shape[-1]
        and w.weight.ndim == 2
        and how.mode == "affine"
        and how.bits in (4, 8)
        and how.group_size in (32, 64, 128)
        and w.scales.dtype == x.dtype
        and (norm is None or norm.weight.dtype == x.dtype)
        # Metal passes fewer words in another address space, where wide loads have another type.
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
    """`reference` by this matrix, where `fits`; float32 between the norm and the rounded product.

    x must begin at a multiple of 4 values of its allocation; all that a layer computes does.
    """
    width = x.shape[-1]
    how = w.quantization
    halves = 2 if glu else 1
    out = w.scales.shape[0] // halves
    rows = LINES // halves
    simds = simds_for(width, how.bits)
    launch = Launch(
        threadgroups=-(-out // rows),
        threads=SIMD * simds,
        outputs=[((*x.shape[:-1], out), x.dtype)],
        constants={
            "InT": x.dtype,
            "IN": width,
            "OUT": out,
            "BITS": how.bits,
            "GS": how.group_size,
            "ROWS": rows,
            "SIMDS": simds,
            "NORM": int(norm is not None),
            "EPS": float_bits(norm.eps if norm else 0.0),
            "RESIDUAL": int(residual is not None),
            "GLU": int(glu),
        },
    )
    # x stands in for what is not there and not read.
    norm_weight = x if norm is None else norm.weight
    onto = x if residual is None else residual
    (y,) = _KERNEL([x, *w.arrays, norm_weight, onto], launch)
    return y
