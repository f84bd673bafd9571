"""Rows that are computed from stored tensors, and stacks of matrices of either kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, RowReader, StoredTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import dequantize


@dataclass(frozen=True, slots=True)
class ComputedRows:
    """A tensor whose rows are computed from those of stored tensors.

    Attributes:
        compute: rows [start, stop) of any dtype, not necessarily evaluated; never called for none.
    """

    file: StoredTensor
    shape: tuple[int, ...]
    dtype: mx.Dtype
    compute: Callable[[int, int], mx.array]

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        rows = self.compute(start, stop).astype(self.dtype)
        mx.eval(rows)
        return rows


@dataclass(frozen=True, slots=True)
class StackedRows:
    """Tensors of one shape and dtype, stacked on a new first axis."""

    members: tuple[RowReader, ...]

    @property
    def file(self) -> StoredTensor:
        return self.members[0].file

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.members), *self.members[0].shape

    @property
    def dtype(self) -> mx.Dtype:
        return self.members[0].dtype

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        stack = mx.stack([m.read(0, m.shape[0]) for m in self.members[start:stop]])
        mx.eval(stack)
        return stack


def stacked(matrices: Sequence[Matrix]) -> Matrix:
    """Matrices [rows, columns], one per expert, as one [experts, rows, columns].

    Packed if all are packed alike, else plain: one matrix of a stack may be representable in
    MLX's packing and another not.

    Raises:
        Qwen35Error: their shapes or dtypes differ.
    """
    first = matrices[0]
    packed = [m for m in matrices if isinstance(m, PackedMatrix)]
    if len(packed) == len(matrices) and len({m.quantization for m in packed}) == 1:
        names = packed[0].parts
        parts = {name: _stacked_rows([m.parts[name] for m in packed]) for name in names}
        return PackedMatrix((len(packed), *first.shape), packed[0].quantization, parts)
    return _stacked_rows([plain(m) for m in matrices])


def _stacked_rows(members: Sequence[RowReader]) -> StackedRows:
    first = members[0]
    for other in members:
        if (other.shape, other.dtype) != (first.shape, first.dtype):
            raise Qwen35Error(
                f"{other.file.path}: '{other.file.name}' and '{first.file.name}' of one stack "
                "differ in shape or dtype: fetch the checkpoint again"
            )
    return StackedRows(tuple(members))


def plain(matrix: Matrix) -> RowReader:
    """The matrix read as plain values: a packed one in the dtype of its scales, else bfloat16."""
    if not isinstance(matrix, PackedMatrix):
        return matrix
    parts, quantization = matrix.parts, matrix.quantization
    dtype = parts["scales"].dtype if "biases" in parts else mx.bfloat16

    def compute(start: int, stop: int) -> mx.array:
        weight, scales = (parts[name].read(start, stop) for name in ("weight", "scales"))
        biases = parts["biases"].read(start, stop) if "biases" in parts else None
        if biases is not None:
            # In float32, where the product of a 16-bit scale and a code is exact.
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return dequantize(weight, scales, biases, quantization, mx.float32)

    return ComputedRows(parts["weight"].file, matrix.shape, dtype, compute)


def member(tensor: FileTensor, number: int) -> FileTensor:
    """One matrix of a stored stack."""
    size = tensor.nbytes // max(1, tensor.shape[0])
    return FileTensor(
        tensor.path,
        tensor.name,
        tensor.stored_dtype,
        tensor.shape[1:],
        tensor.offset + number * size,
    )


def damaged(tensor: FileTensor, problem: str) -> Qwen35Error:
    """An error line about a stored tensor; `problem` continues "'NAME' is I32 [2, 3], "."""
    return Qwen35Error(
        f"{tensor.path}: '{tensor.name}' is {tensor.stored_dtype} {list(tensor.shape)}, {problem}: "
        "fetch the checkpoint again"
    )
