"""Readers of canonical tensors: one tensor of a file, rows of one, or a stack of several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mlx.core as mx

from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization, dequantize

# Elements that are computed at a time: 8 MiB in bfloat16. For float-4 and float-8 modes, MLX on a
# CPU makes many float32 copies of a chunk; larger chunks are no faster.
CHUNK_ELEMENTS = 4 << 20


class StoredTensor(Protocol):
    """One tensor of one file, as error lines name it. `FileTensor` is one."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str: ...

    @property
    def stored_dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class RowReader(Protocol):
    """A tensor that is read by rows of its first axis."""

    @property
    def file(self) -> StoredTensor:
        """The tensor on disk that is read, the first if there are several."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> mx.Dtype: ...

    def read(self, start: int, stop: int) -> mx.array:
        """Rows [start, stop), evaluated."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRotation:
    """A rotation in a file.

    Attributes:
        block: as `HadamardRotation.block`.
        signs: [in], each 1 or -1.
    """

    block: int
    signs: RowReader

    def load(self) -> HadamardRotation:
        """Read the signs.

        Raises:
            Qwen35Error: the file cannot be read, or one of them is neither 1 nor -1.
        """
        signs = self.signs.read(0, self.signs.shape[0]).astype(mx.float32)
        mx.eval(signs)  # a compiled layer must capture a value
        if not mx.all(mx.abs(signs) == 1).item():
            file = self.signs.file
            raise Qwen35Error(
                f"{file.path}: '{file.name}' has signs other than 1 and -1: fetch the file again"
            )
        return HadamardRotation(self.block, signs)


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix [..., out, in] in the packing of `mx.quantize`, however its file stores it.

    Attributes:
        shape: of the plain matrix.
        parts: readers by the end of the tensor's name; shapes as `Quantization.packed(shape)`.
        rotation: what the packed rows are rotated by, and inputs must be; None if they are not.
    """

    shape: tuple[int, ...]
    quantization: Quantization
    parts: Mapping[str, RowReader]
    rotation: StoredRotation | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """Of the activations that it was made for: that of its scales, else bfloat16."""
        return self.parts["scales"].dtype if self.quantization.mode == "affine" else mx.bfloat16

    @property
    def file(self) -> StoredTensor:
        """The packed weight on disk, the first if there are several."""
        return self.parts["weight"].file


# What a format makes of the tensors of one matrix: plain values, or parts kept as they are.
Matrix = RowReader | PackedMatrix


@dataclass(frozen=True, slots=True)
class WholeTensor:
    """One tensor of a file, in a shape of as many elements."""

    file: FileTensor
    shape: tuple[int, ...]

    @property
    def dtype(self) -> mx.Dtype:
        return self.file.dtype

    def read(self, start: int, stop: int) -> mx.array:
        if not self.shape:
            return self.file.read()
        return self.file.read(start, stop).reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True, slots=True)
class OnePlus:
    """1 + w, in float32, of a norm whose file holds w."""

    stored: RowReader

    @property
    def file(self) -> StoredTensor:
        return self.stored.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32

    def read(self, start: int, stop: int) -> mx.array:
        weight = self.stored.read(start, stop).astype(mx.float32) + 1
        mx.eval(weight)
        return weight


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of another reader."""

    whole: RowReader
    first: int
    count: int

    @property
    def file(self) -> StoredTensor:
        return self.whole.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, *self.whole.shape[1:]

    @property
    def dtype(self) -> mx.Dtype:
        return self.whole.dtype

    def read(self, start: int, stop: int) -> mx.array:
        return self.whole.read(self.first + start, self.first + stop)


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
class Stack:
    """Tensors of one shape and dtype, stacked on a new first axis."""

    tensors: tuple[RowReader, ...]

    @property
    def file(self) -> StoredTensor:
        return self.tensors[0].file

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.tensors), *self.tensors[0].shape

    @property
    def dtype(self) -> mx.Dtype:
        return self.tensors[0].dtype

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        stack = mx.stack([tensor.read(0, tensor.shape[0]) for tensor in self.tensors[start:stop]])
        mx.eval(stack)
        return stack


@dataclass(frozen=True, slots=True)
class Dequantized:
    """The plain values of a packed matrix, computed in float32."""

    packed: PackedMatrix
    dtype: mx.Dtype = mx.float32

    @property
    def file(self) -> StoredTensor:
        return self.packed.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.packed.shape

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        parts = {name: part.read(start, stop) for name, part in self.packed.parts.items()}
        scales, biases = parts["scales"], parts.get("biases")
        if biases is not None:
            # In float32, where the product of a 16-bit scale and a code is exact.
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        quantization = self.packed.quantization
        values = dequantize(parts["weight"], scales, biases, quantization, mx.float32)
        if self.packed.rotation is not None:
            values = self.packed.rotation.load().inverse(values)
        values = values.astype(self.dtype)
        mx.eval(values)
        return values


def plain(matrix: Matrix) -> RowReader:
    """The plain values of a matrix."""
    return Dequantized(matrix) if isinstance(matrix, PackedMatrix) else matrix


def row_range(matrix: Matrix, first: int, count: int) -> Matrix:
    """`count` rows from `first` on of a matrix [rows, columns]."""
    if not isinstance(matrix, PackedMatrix):
        return RowRange(matrix, first, count)
    shape = (count, *matrix.shape[1:])
    return _by_part([matrix], shape, lambda parts: RowRange(parts[0], first, count))


def stack(matrices: Sequence[Matrix]) -> Matrix:
    """Matrices of one shape on a new first axis; packed if all are packed in the same way."""
    packed = [matrix for matrix in matrices if isinstance(matrix, PackedMatrix)]
    if len(packed) == len(matrices) and len({_packing(matrix) for matrix in packed}) == 1:
        shape = (len(packed), *packed[0].shape)
        return _by_part(packed, shape, lambda parts: Stack(tuple(parts)))
    return Stack(
        tuple(
            Dequantized(matrix, matrix.dtype) if isinstance(matrix, PackedMatrix) else matrix
            for matrix in matrices
        )
    )


def _packing(matrix: PackedMatrix) -> object:
    return matrix.quantization, *(part.dtype for part in matrix.parts.values())


def _by_part(
    matrices: Sequence[PackedMatrix],
    shape: tuple[int, ...],
    join: Callable[[list[RowReader]], RowReader],
) -> PackedMatrix:
    """Packed matrices joined to one, part by part."""
    parts = {name: join([m.parts[name] for m in matrices]) for name in matrices[0].parts}
    return PackedMatrix(shape, matrices[0].quantization, parts)
