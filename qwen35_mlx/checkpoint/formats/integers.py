"""The packings of GPTQ, AWQ, AutoRound, compressed-tensors and INT8, as codes, scales and zeros.

Sources: GPTQModel 7.6 (`gptq` stores zero points less one, `gptq_v2` as they are), AutoAWQ's GEMM
version, AutoRound's packing formats, compressed-tensors 0.20.
"""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from qwen35_mlx.checkpoint.formats import words
from qwen35_mlx.checkpoint.formats.affine import IntegerMatrix
from qwen35_mlx.checkpoint.formats.damage import damaged
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import ComputedRows, RowReader

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def transposed(tensor: FileTensor) -> RowReader:
    """A stored [columns, rows] as rows."""
    columns, rows = tensor.shape
    return ComputedRows(
        tensor,
        (rows, columns),
        tensor.dtype,
        lambda start, stop: mx.contiguous(tensor.read_columns(start, stop).T),
    )


def gptq(
    weight: FileTensor,
    scales: FileTensor,
    zeros: FileTensor,
    bits: int,
    group_of: npt.NDArray[np.int32] | None,
    symmetric: bool,
    zeros_less_one: bool,
) -> IntegerMatrix:
    """GPTQ's packing, transposed: words along the input axis, zero points along the output axis.

    Args:
        weight: I32 [columns * bits / 32, rows].
        scales: [groups, rows].
        zeros: I32 [groups, rows * bits / 32].
        zeros_less_one: whether the file holds each zero point less one, modulo 2 ** bits.

    Raises:
        Qwen35Error: the columns do not divide into the groups.
    """
    groups, rows = scales.shape
    packed_rows = zeros.shape[1]
    columns = weight.shape[0] * 32 // bits
    shape = (rows, _checked_columns(weight, weight.shape[0], bits, columns, groups, group_of))
    offset = int(zeros_less_one)

    def zero_rows(start: int, stop: int) -> mx.array:
        first, last = words.aligned(start, stop, bits)
        stored = zeros.read_columns(first * bits // 32, min(last * bits // 32, packed_rows))
        codes = words.unpack(np.array(stored).view(np.uint32), bits)
        codes = (codes[:, start - first : stop - first] + offset) & (2**bits - 1)
        return mx.array(codes.T.astype(np.float32))

    return IntegerMatrix(
        weight,
        shape,
        bits,
        _as_words(transposed(weight)),
        transposed(scales),
        ComputedRows(zeros, (rows, groups), mx.float32, zero_rows),
        symmetric,
        group_of,
    )


def awq(
    weight: FileTensor, scales: FileTensor, zeros: FileTensor | None, symmetric: bool
) -> IntegerMatrix:
    """AWQ's GEMM packing: 4 bits, words along the output axis with neighbours interleaved.

    Args:
        weight: I32 [columns, rows / 8].
        scales: [groups, rows].
        zeros: I32 [groups, rows / 8]; None for zero points of 8.

    Raises:
        Qwen35Error: the shapes do not fit together.
    """
    groups, rows = scales.shape
    columns, count = weight.shape
    for tensor, expected in ((weight, (columns, rows // 8)), (zeros, (groups, rows // 8))):
        if tensor is not None and (tensor.shape != expected or rows % 8):
            raise damaged(tensor, f"which does not fit AWQ's scales {list(scales.shape)}")
    _checked_columns(weight, columns // 8, 4, columns, groups, None)

    def codes(tensor: FileTensor, start: int, stop: int) -> words.Codes:
        first = start // 8
        stored = tensor.read_columns(first, min(-(-stop // 8), count))
        found = words.unpack_awq(np.array(stored).view(np.uint32))
        return found[:, start - 8 * first : stop - 8 * first].T

    def word_rows(start: int, stop: int) -> mx.array:
        return mx.array(words.pack_nibbles(codes(weight, start, stop)))

    def zero_rows(start: int, stop: int) -> mx.array:
        assert zeros is not None
        return mx.array(codes(zeros, start, stop).astype(np.float32))

    return IntegerMatrix(
        weight,
        (rows, columns),
        4,
        ComputedRows(weight, (rows, columns // 8), mx.uint32, word_rows),
        transposed(scales),
        zeros and ComputedRows(zeros, (rows, groups), mx.float32, zero_rows),
        symmetric,
    )


def pack_quantized(
    weight: FileTensor,
    scales: FileTensor,
    zeros: FileTensor | None,
    group_of: npt.NDArray[np.int32] | None,
    columns: int,
    bits: int,
) -> IntegerMatrix:
    """compressed-tensors' pack-quantized: signed integers, stored plus 2 ** (bits - 1).

    Args:
        weight: I32 [rows, columns * bits / 32].
        scales: [rows, groups], [rows] or one for all.
        zeros: I32 [rows * bits / 32, groups], with the same offset.

    Raises:
        Qwen35Error: the shapes do not fit together.
    """
    rows, count = weight.shape
    by_row = _scales_by_row(scales, rows)
    groups = by_row.shape[1]
    _checked_columns(weight, count, bits, columns, groups, group_of)
    packed_rows = -(-rows * bits // 32)
    if zeros is not None and zeros.shape != (packed_rows, groups):
        raise damaged(zeros, f"which does not fit the scales {list(scales.shape)}")

    def zero_rows(start: int, stop: int) -> mx.array:
        first, last = words.aligned(start, stop, bits)
        assert zeros is not None
        stored = zeros.read(first * bits // 32, min(last * bits // 32, packed_rows))
        along_rows = np.ascontiguousarray(np.array(stored).view(np.uint32).T)
        codes = words.unpack(along_rows, bits)[:, start - first : stop - first]
        return mx.array(codes.T.astype(np.float32))

    return IntegerMatrix(
        weight,
        (rows, columns),
        bits,
        _as_words(ComputedRows(weight, weight.shape, weight.dtype, weight.read)),
        by_row,
        zeros and ComputedRows(zeros, (rows, groups), mx.float32, zero_rows),
        zeros is None,
        group_of,
    )


def int8(weight: FileTensor, scales: FileTensor, zeros: FileTensor | None) -> IntegerMatrix:
    """Signed bytes, as compressed-tensors' int-quantized and ModelOpt's INT8 store them.

    Args:
        weight: I8 [rows, columns].
        scales: [rows, groups], [rows] or one for all.
        zeros: I8, shaped as the scales.

    Raises:
        Qwen35Error: the shapes do not fit together.
    """
    rows, columns = weight.shape
    by_row = _scales_by_row(scales, rows)
    if columns % 4:
        raise damaged(weight, "whose rows are no multiple of 4 bytes")
    _checked_columns(weight, columns // 4, 8, columns, by_row.shape[1], None)
    if zeros is not None and (zeros.shape != scales.shape or zeros.stored_dtype != "I8"):
        raise damaged(zeros, f"which does not fit the scales {list(scales.shape)}")
    zero_rows = zeros and _by_row(zeros, rows)

    def word_rows(start: int, stop: int) -> mx.array:
        # Flipping the highest bit of a signed byte adds 128.
        return (weight.read(start, stop).view(mx.uint8) ^ 128).view(mx.uint32)

    return IntegerMatrix(
        weight,
        (rows, columns),
        8,
        ComputedRows(weight, (rows, columns // 4), mx.uint32, word_rows),
        by_row,
        zero_rows
        and ComputedRows(
            zero_rows.file,
            zero_rows.shape,
            mx.float32,
            lambda start, stop: zero_rows.read(start, stop).astype(mx.float32) + 128,
        ),
        zeros is None,
    )


def read_group_of(tensor: FileTensor, columns: int, groups: int) -> npt.NDArray[np.int32] | None:
    """The group of each column; None if the groups are runs of neighbours.

    Raises:
        Qwen35Error: it names a group that is not there.
    """
    if tensor.shape != (columns,) or tensor.stored_dtype not in ("I32", "I64"):
        raise damaged(tensor, f"where {columns} columns have a group each")
    found = np.array(tensor.read())
    runs = columns % groups == 0 and (found == np.arange(columns) // (columns // groups)).all()
    # compressed-tensors has left -1 where no order was recorded.
    if runs or (found == -1).all():
        return None
    if found.min() < 0 or found.max() >= groups:
        raise damaged(tensor, f"with a group beyond the {groups} that have scales")
    return found.astype(np.int32)


def _as_words(rows: RowReader) -> RowReader:
    return ComputedRows(
        rows.file, rows.shape, mx.uint32, lambda a, b: rows.read(a, b).view(mx.uint32)
    )


def _checked_columns(
    weight: FileTensor,
    count: int,
    bits: int,
    columns: int,
    groups: int,
    group_of: npt.NDArray[np.int32] | None,
) -> int:
    """`columns`, if `count` words of a row hold exactly as many codes, in equal groups."""
    if not columns or columns * bits != count * 32 or not groups:
        raise damaged(weight, f"which does not hold {columns} columns of {bits} bits")
    if group_of is None and columns % groups:
        raise damaged(weight, f"whose {columns} columns do not divide into {groups} groups")
    return columns


def _by_row(tensor: FileTensor, rows: int) -> RowReader:
    """A tensor [rows, groups], [rows] or of one value -> [rows, groups]."""
    if tensor.size == 1:
        tensor = replace(tensor, shape=(1, 1))

        def one_for_all(start: int, stop: int) -> mx.array:
            return mx.broadcast_to(tensor.read(), (stop - start, 1))

        return ComputedRows(tensor, (rows, 1), tensor.dtype, one_for_all)
    if len(tensor.shape) == 1:
        tensor = replace(tensor, shape=(tensor.size, 1))
    if len(tensor.shape) != 2 or tensor.shape[0] != rows:
        raise damaged(tensor, f"which does not fit a matrix of {rows} rows")
    return ComputedRows(tensor, tensor.shape, tensor.dtype, tensor.read)


def _scales_by_row(scales: FileTensor, rows: int) -> RowReader:
    if scales.dtype not in _FLOATS:
        raise damaged(scales, "which are no scales of integers")
    return _by_row(scales, rows)
