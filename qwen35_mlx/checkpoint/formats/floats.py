"""Matrices of 8-bit and 4-bit floats: FP8, MXFP8, MXFP4 and NVFP4.

Sources: OCP Microscaling Formats v1.0 (E8M0 scales of 32 neighbours), compressed-tensors 0.20
(`weight_packed`, a global scale that divides) and ModelOpt's unified Hugging Face export
(`weight_scale_2`, a global scale that multiplies).
"""

import math
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.formats.damage import damaged
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import ComputedRows, Matrix, PackedMatrix, RowReader
from qwen35_mlx.kernels.quantized import Quantization

_FLOATS = ("F32", "F16", "BF16")
_E4M3 = "F8_E4M3"
# compressed-tensors stores E8M0 exponents as plain bytes.
_E8M0 = ("U8", "F8_E8M0")

_MX_GROUP = 32
_NV_GROUP = 16
_SCALES_PER_READ = 1 << 22

# E2M1: a sign, two bits of exponent and one of mantissa.
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# The two values of a byte, the low half first.
_E2M1_PAIRS = np.stack([np.tile(_E2M1, 16), np.repeat(_E2M1, 16)], axis=-1)


def is_e8m0(scale: FileTensor) -> bool:
    """Whether a scale is a power of two, given as its exponent."""
    return scale.stored_dtype in _E8M0


def float8(
    weight: FileTensor, scale: FileTensor, block_shapes: tuple[tuple[int, int], ...]
) -> Matrix:
    """An E4M3 matrix [rows, columns] with one multiplier per block.

    MXFP8, with E8M0 scales for 32 neighbours, keeps its bits in MLX's mxfp8. Any other is plain:
    value times scale in float32, rounded to bfloat16.

    Args:
        scale: one value for all, one per row ([rows] or [rows, 1]), one per group of a row
            ([rows, groups]), or one per block.
        block_shapes: rows and columns of the blocks that the config names.

    Raises:
        Qwen35Error: the scales fit neither the matrix nor a block, or two blocks.
    """
    rows, columns = weight.shape
    if scale.stored_dtype not in (*_FLOATS, *_E8M0):
        raise damaged(scale, "which are no scales of FP8")
    squeezed = replace(scale, shape=_squeezed(scale.shape))
    fitting = [
        (block, grid)
        for block in block_shapes
        if _squeezed(grid := _grid(block, rows, columns)) == squeezed.shape
    ]
    if not fitting or not squeezed.shape:
        fitting = _row_blocks(squeezed, rows, columns)
    if len(fitting) != 1:
        raise damaged(scale, f"which fits neither {list(weight.shape)} nor its blocks")
    ((block, grid),) = fitting
    scale = replace(scale, shape=grid)
    if is_e8m0(scale) and block == (1, _MX_GROUP) and columns % _MX_GROUP == 0:
        return _packed(weight.shape, Quantization(_MX_GROUP, 8, "mxfp8"), weight, _bytes(scale))
    return ComputedRows(
        weight, weight.shape, mx.bfloat16, partial(_float8_rows, weight, scale, block)
    )


def _grid(block: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """Blocks along each axis."""
    return math.ceil(rows / block[0]), math.ceil(columns / block[1])


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _row_blocks(
    scale: FileTensor, rows: int, columns: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The block and the grid of scales that are one per matrix, row, or group of a row."""
    match scale.shape:
        case ():
            return [((rows, columns), (1, 1))]
        case (count,) if count == rows:
            return [((1, columns), (rows, 1))]
        case (count,) if rows == 1 and count and columns % count == 0:
            return [((1, columns // count), (1, count))]
        case (count, groups) if count == rows and groups and columns % groups == 0:
            return [((1, columns // groups), (rows, groups))]
    return []


def _float8_rows(
    weight: FileTensor, scale: FileTensor, block: tuple[int, int], start: int, stop: int
) -> mx.array:
    block_rows, block_columns = block
    first = start // block_rows
    scales = _values(scale, first, (stop - 1) // block_rows + 1)
    scales = scales[mx.arange(start, stop) // block_rows - first]
    if scales.shape[1] > 1:
        scales = mx.repeat(scales, block_columns, axis=1)[:, : weight.shape[1]]
    return mx.from_fp8(weight.read(start, stop), mx.float32) * scales


def float4(
    weight: FileTensor,
    scale: FileTensor,
    global_scale: FileTensor | None,
    divides: bool,
) -> Matrix:
    """A matrix [rows, columns] of E2M1 values, two in a byte, the even column in the low half.

    MXFP4 (E8M0 scales of 32 neighbours) keeps its bits in MLX's mxfp4. NVFP4 (E4M3 scales of 16
    neighbours and one float32 scale of the matrix) does in nvfp4, if each product of both scales
    is an E4M3 value: MLX has no place for the second. That takes a power of two. Any other is
    plain: both scales joined in float32, times the value, rounded to bfloat16.

    Args:
        weight: U8 [rows, columns / 2].
        divides: whether the scale of the matrix is a divisor.

    Raises:
        Qwen35Error: a scale is missing or fits neither format.
    """
    rows, half = weight.shape
    shape, columns = (rows, 2 * half), 2 * half
    if is_e8m0(scale):
        if scale.shape != (rows, columns // _MX_GROUP) or columns % _MX_GROUP:
            raise damaged(scale, f"where MXFP4 {list(shape)} has one for {_MX_GROUP} neighbours")
        return _packed(shape, Quantization(_MX_GROUP, 4, "mxfp4"), weight, _bytes(scale))
    if scale.stored_dtype != _E4M3 or columns % _NV_GROUP:
        raise damaged(scale, "which are the scales of neither NVFP4 nor MXFP4")
    if scale.shape != (rows, columns // _NV_GROUP):
        raise damaged(scale, f"where NVFP4 {list(shape)} has one for {_NV_GROUP} neighbours")
    if global_scale is None:
        raise damaged(weight, "but the scale of the whole NVFP4 matrix is missing")
    if global_scale.size != 1 or global_scale.stored_dtype not in _FLOATS:
        raise damaged(global_scale, "which is no scale of a whole matrix")
    factor = replace(global_scale, shape=()).read().astype(mx.float32)
    value = float(np.array(factor))
    if not math.isfinite(value) or value <= 0:
        raise damaged(global_scale, f"of the value {value:g}, which is no scale")
    if math.frexp(value)[0] == 0.5:
        factor = 1 / factor if divides else factor
        if value == 1 or _stay_e4m3(scale, factor):
            scales = _bytes(scale) if value == 1 else _folded(scale, factor)
            return _packed(shape, Quantization(_NV_GROUP, 4, "nvfp4"), weight, scales)
        divides = False
    compute = partial(_float4_rows, weight, scale, factor, divides)
    return ComputedRows(weight, shape, mx.bfloat16, compute)


def _float4_rows(
    weight: FileTensor, scale: FileTensor, factor: mx.array, divides: bool, start: int, stop: int
) -> mx.array:
    scales = mx.from_fp8(scale.read(start, stop), mx.float32)
    scales = scales / factor if divides else scales * factor
    values = mx.array(_E2M1_PAIRS)[weight.read(start, stop)]
    return (values.reshape(*scales.shape, _NV_GROUP) * scales[..., None]).reshape(stop - start, -1)


def _stay_e4m3(scale: FileTensor, factor: mx.array) -> bool:
    """Whether every scale times `factor` is an E4M3 value."""
    rows, groups = scale.shape
    step = max(1, _SCALES_PER_READ // max(1, groups))
    for start in range(0, rows, step):
        product = mx.from_fp8(scale.read(start, min(start + step, rows)), mx.float32) * factor
        if not mx.array_equal(mx.from_fp8(mx.to_fp8(product), mx.float32), product).item():
            return False
    return True


def _folded(scale: FileTensor, factor: mx.array) -> RowReader:
    return ComputedRows(
        scale,
        scale.shape,
        mx.uint8,
        lambda start, stop: mx.to_fp8(mx.from_fp8(scale.read(start, stop), mx.float32) * factor),
    )


def _bytes(scale: FileTensor) -> RowReader:
    return ComputedRows(scale, scale.shape, mx.uint8, scale.read)


def _packed(
    shape: tuple[int, ...], quantization: Quantization, weight: FileTensor, scales: RowReader
) -> PackedMatrix:
    """A matrix whose bytes are MLX's, but for the element size of `weight`."""
    words = ComputedRows(
        weight,
        quantization.packed(shape)["weight"],
        mx.uint32,
        lambda start, stop: weight.read(start, stop).view(mx.uint32),
    )
    return PackedMatrix(shape, quantization, {"weight": words, "scales": scales})


def _values(scale: FileTensor, start: int, stop: int) -> mx.array:
    """Rows of a scale [rows, columns], in float32."""
    values = scale.read(start, stop)
    if is_e8m0(scale):
        # 2 to the exponent, exact for all but the least, which is below float32's normal range.
        return mx.power(mx.array(2.0), values.astype(mx.float32) - 127)
    return values.astype(mx.float32)
