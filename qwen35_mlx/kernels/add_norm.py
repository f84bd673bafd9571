"""The sum of a layer's two halves and its RMS norm, which launch once instead of twice."""

import mlx.core as mx

from qwen35_mlx.kernels.choices import REFERENCE, Choices
from qwen35_mlx.kernels.portable import SIMD, Kernel, Launch

# That share a row.
SIMDS = 8
STEP_ROWS = 8
# For `Choices.add_norm`.
KERNEL = "one dispatch"

_KERNEL = Kernel("add_norm", inputs=("x", "y", "weight", "eps"), outputs=("sum", "normed"))


def add_norm(
    x: mx.array, y: mx.array, weight: mx.array, eps: float, choices: Choices
) -> tuple[mx.array, mx.array]:
    """x + y, and its RMS norm, in the form chosen for so many rows.

    x, y [..., H], weight [H] -> two of x's shape and dtype.
    """
    few = x.size // x.shape[-1] <= STEP_ROWS
    return (reference if choices.add_norm == REFERENCE or not few else kernel)(x, y, weight, eps)


def reference(x: mx.array, y: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, mx.array]:
    """`add_norm` in plain MLX: the norm is of the sum as it is rounded."""
    both = x + y
    return both, mx.fast.rms_norm(both, weight, eps).astype(x.dtype)


def kernel(x: mx.array, y: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, mx.array]:
    """`reference` in one dispatch."""
    width = x.shape[-1]
    launch = Launch(
        threadgroups=x.size // width,
        threads=SIMD * SIMDS,
        outputs=[(x.shape, x.dtype), (x.shape, x.dtype)],
        constants={"InT": x.dtype, "H": width, "SIMDS": SIMDS},
    )
    both, normed = _KERNEL([x, y, weight, mx.array([eps], mx.float32)], launch)
    return both, normed
