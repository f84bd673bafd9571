"""A few tokens times a matrix, with the norm before and the residual sum after it.

Launch overhead and reading the matrices dominate a layer at one token, so all of it is one
dispatch. Up to `MAX_DECODE_TOKENS` tokens share it, of one conversation or of several: each weight
is read and unpacked once for all of them. A token's result is the same to the bit, however many
there are: verifying a draft computes what decoding token by token does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import chunk_values, simd_groups_for
from qwen35_mlx.kernels.row_format import Matrix, RowFormat, matrix_shape, row_arrays
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS

# For `KernelSelection.matmul_decode`: x is staged in threadgroup memory, or read from the cache by
# SIMD groups that share nothing. The first computes more rows for each read of x, the second needs
# fewer registers and no barriers.
KERNEL, LIGHT = "one dispatch", "one dispatch, nothing staged"
VARIANTS = (KERNEL, LIGHT)
# Rows of the matrix that a SIMD group of the second computes, and its SIMD groups.
LIGHT_ROWS, LIGHT_SIMD_GROUPS = 4, 2
# Bytes of x in threadgroup memory, at most: Metal allows 32 KB, of which partial sums take up to 4.
STAGED_BYTES = 28_000
# Products of a row of the matrix and a token that a thread accumulates, at most. Twice as many are
# as fast per product, but leave registers for fewer threads, and for no sums of earlier rounds.
PRODUCTS = 32
MANY_PRODUCTS = 64
# SIMD groups of two sets of threads, at most. More than 8 leave a thread 168 registers on a GPU of
# compute capability 9, which 4-bit rows that are read in one round do not exceed; a launch that
# needs more fails. `scripts.kernel_registers` shows them.
SIMD_GROUPS, MANY_SIMD_GROUPS = 8, 10


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is dealt out to threads; the result does not depend on it.

    Attributes:
        rows: of the matrix, that a thread reads its chunks of.
        sets: of threads, each with rows of its own, that share x in threadgroup memory.
        slab: quads (four values) of each chunk of x that threadgroup memory holds at once.
    """

    rows: int
    sets: int
    slab: int


def tiling_for(tokens: int, width: int, bits: int, itemsize: int) -> Tiling:
    """The tiling for this many tokens of `width` values of `itemsize` bytes.

    Reading and norming x costs as much as several products. So each threadgroup has as many rows as
    registers allow, and from three tokens on a second set of threads.
    """
    simd_groups = simd_groups_for(width, bits)
    threads = SIMD_WIDTH * simd_groups
    chunk = chunk_values(bits)
    one_round = width // chunk <= threads
    products = PRODUCTS
    if one_round and 2 * simd_groups <= SIMD_GROUPS:
        products = MANY_PRODUCTS
    # Chunks of 5 or 6 words leave no registers for 8 rows beside several tokens.
    rows = 8 if tokens == 1 or chunk * bits <= 128 else 4
    while rows * tokens > min(products, threads):  # a thread finishes one result at most
        rows //= 2
    slab = chunk // 4
    while tokens * slab * (threads + 16 // slab) * 4 * itemsize > STAGED_BYTES:
        slab //= 2
    room = MANY_SIMD_GROUPS if one_round and bits == 4 else SIMD_GROUPS
    sets = 2 if tokens > 2 and 2 * simd_groups <= room and slab > 1 else 1
    return Tiling(rows, sets, slab)


_INPUTS = ("x", "w", "scales", "biases", "norm_weight", "residual")
_KERNELS = {
    KERNEL: Kernel("matvec", inputs=_INPUTS, outputs=("y",)),
    LIGHT: Kernel("matvec_light", inputs=_INPUTS, outputs=("y",)),
}


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


def supports(x: mx.array, w: Matrix) -> bool:
    """Whether `kernel` can compute it: a few tokens, and one matrix of a format that it reads.

    Scales, plain matrices and the norm's weight may be of other dtypes than x.
    """
    return (
        0 < x.size <= MAX_DECODE_TOKENS * x.shape[-1]
        and len(matrix_shape(w)) == 2
        and RowFormat.of(w) is not None
    )


def kernel(
    x: mx.array,
    w: Matrix,
    norm: RMSNorm | None = None,
    residual: mx.array | None = None,
    *,
    glu: bool = False,
    variant: str = KERNEL,
) -> mx.array:
    """`reference` with this matrix, if it `supports` it; float32 from the norm to the product.

    The offset of x in its buffer must be a multiple of 4 values, as it is for all that a layer
    computes.

    Args:
        variant: of `VARIANTS`.
    """
    width = x.shape[-1]
    tokens = x.size // width
    row_format = RowFormat.of(w)
    assert row_format is not None
    # An input that the body does not read still needs an array: x.
    norm_weight = x if norm is None else norm.weight
    halves = 2 if glu else 1
    out = matrix_shape(w)[0] // halves
    if variant == LIGHT:
        outputs, sets, simd_groups = LIGHT_ROWS // halves, LIGHT_SIMD_GROUPS, 1
        tiling_constants = {"SIMD_GROUPS": LIGHT_SIMD_GROUPS}
    else:
        tiling = tiling_for(tokens, width, row_format.bits, x.itemsize)
        outputs, sets = tiling.rows // halves, tiling.sets
        simd_groups = simd_groups_for(width, row_format.bits)
        tiling_constants = {"SETS": sets, "SIMD_GROUPS": simd_groups, "SLAB": tiling.slab}
    launch = Launch(
        threadgroups=-(-out // (sets * outputs)),
        threads=SIMD_WIDTH * sets * simd_groups,
        outputs=[((*x.shape[:-1], out), x.dtype)],
        constants={
            "InT": x.dtype,
            "NormT": norm_weight.dtype,
            "TOKENS": tokens,
            "IN": width,
            "OUT": out,
            **row_format.constants(),
            "OUTPUTS": outputs,
            **tiling_constants,
            "NORM": int(norm is not None),
            "EPS": float_bits(norm.eps if norm else 0.0),
            "RESIDUAL": int(residual is not None),
            "GLU": int(glu),
        },
    )
    residual = x if residual is None else residual
    (y,) = _KERNELS[variant]([x, *row_arrays(w, x), norm_weight, residual], launch)
    return y
