"""Types of ggml that MLX cannot compute with, requantised as they are read.

Their groups have 16 elements, or values that are not evenly spaced. As plain values they would take
two to eight times their size in memory; so they get affine groups of 32, with more bits than they
have. By `scripts/benchmarks/gguf.py`, on normal and on heavy-tailed weights, the squared error that
this adds is below a tenth of the type's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.gguf.blocks import BlockReader
from qwen35_mlx.checkpoint.gguf.packing import matrix_of_parts, pack_codes
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix
from qwen35_mlx.kernels.quantized import Quantization

GROUP_SIZE = 32


@dataclass(frozen=True, slots=True)
class _Grid:
    """The codes of a group: `bits` for each, from 0 to `last`."""

    bits: int
    last: int


_GRIDS: Mapping[str, _Grid] = {
    **{name: _Grid(8, 255) for name in ("Q6_K",)},
    **{name: _Grid(6, 63) for name in ("IQ4_NL", "IQ4_XS", "IQ3_S", "NVFP4")},
    **{name: _Grid(5, 31) for name in ("Q3_K", "IQ3_XXS")},
    **{name: _Grid(4, 15) for name in ("Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")},
    # Three values, evenly spaced: exact.
    **{name: _Grid(2, 2) for name in ("TQ1_0", "TQ2_0")},
}
# Of types that are packed exactly, but for a factor beside the matrix or for very narrow heads.
_OTHER = _Grid(8, 255)


def requantized(matrices: Mapping[str, Matrix], dtype: mx.Dtype) -> dict[str, PackedMatrix]:
    """Those of `matrices` that are stored in blocks without an equal in MLX, packed.

    Args:
        matrices: by canonical name; other tensors are left out.
        dtype: that scales and biases will be rounded to; codes are chosen for the rounded ones.
    """
    return {
        name: _packed(matrix, dtype)
        for name, matrix in matrices.items()
        if isinstance(matrix, BlockReader)
        and matrix.file.block[0] > 1
        and recipes.is_quantizable(name, matrix.shape)
    }


def requantization_note(packed: Mapping[str, PackedMatrix]) -> str:
    """The line for the user."""
    bits = {m.file.stored_dtype: m.quantization.bits for m in packed.values()}
    types = ", ".join(f"{name} to {count} bits" for name, count in sorted(bits.items()))
    return (
        f"{len(packed)} matrices are requantised, as MLX does not compute with their types: "
        f"{types} (adds less than a tenth to the error of each type)"
    )


def _packed(matrix: BlockReader, dtype: mx.Dtype) -> PackedMatrix:
    rows, grid = matrix.rows, _GRIDS.get(matrix.file.stored_dtype, _OTHER)

    def make(start: int, stop: int) -> list[np.ndarray]:
        return quantize(rows.values(start, stop), grid.bits, grid.last, dtype)

    quantization = Quantization(GROUP_SIZE, grid.bits)
    return matrix_of_parts(rows, matrix.shape, quantization, mx.float32, make)


def quantize(values: np.ndarray, bits: int, last: int, dtype: mx.Dtype) -> list[np.ndarray]:
    """float32 [rows, columns] -> "weight", "scales" and "biases" as `mx.quantize` returns them.

    The codes from 0 to `last` span the values of a group. Scales and biases are float32 with values
    of `dtype`.
    """
    groups = values.reshape(len(values), -1, GROUP_SIZE)
    with np.errstate(all="ignore"):  # what is not finite is refused later
        biases = _rounded(groups.min(axis=-1), dtype)
        scales = _rounded((groups.max(axis=-1) - biases) / np.float32(last), dtype)
        steps = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
        codes = (groups - biases[..., None]) * steps[..., None]
        np.clip(np.rint(codes, out=codes), 0, last, out=codes)
        packed = pack_codes(codes.astype(np.uint8), bits)
    words = np.ascontiguousarray(packed).view(np.uint32)
    return [words.reshape(len(values), -1), scales, biases]


def _rounded(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """float32 with values of `dtype`."""
    if dtype == mx.float16:
        return values.astype(np.float16).astype(np.float32)
    if dtype == mx.bfloat16:
        bits = values.view(np.uint32)
        return (bits + 0x7FFF + (bits >> 16 & 1) & np.uint32(0xFFFF0000)).view(np.float32)
    return values
