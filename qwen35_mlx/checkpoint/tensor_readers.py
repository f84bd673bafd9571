"""Readers of canonical tensors: one tensor of a file, rows of one, or a stack of several."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import mlx.core as mx

from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization, dequantize


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


@dataclass(frozen=True, slots=True)
class Dequantized:
    """The plain values of a packed matrix, rotated back, in float32."""

    packed: PackedMatrix

    @property
    def file(self) -> StoredTensor:
        return self.packed.parts["weight"].file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.packed.shape

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        quantization = self.packed.quantization
        parts = {name: part.read(start, stop) for name, part in self.packed.parts.items()}
        if quantization.mode == "affine":
            # MLX computes scale * q + bias in their dtype.
            parts |= {name: parts[name].astype(self.dtype) for name in ("scales", "biases")}
        values = dequantize(
            parts["weight"], parts["scales"], parts.get("biases"), quantization, self.dtype
        )
        if self.packed.rotation is not None:
            values = self.packed.rotation.load().inverse(values)
        mx.eval(values)
        return values


# What a format makes of the tensors of one matrix: plain values, or parts kept as they are.
Matrix = RowReader | PackedMatrix


@dataclass(frozen=True, slots=True)
class WholeTensor:
    """One tensor of a file, in a shape of as many elements.

    Attributes:
        zero_centred: the file holds w of a norm's weight (1 + w); read in float32, as 1 + w.
    """

    file: FileTensor
    shape: tuple[int, ...]
    zero_centred: bool = False

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32 if self.zero_centred else self.file.dtype

    def read(self, start: int, stop: int) -> mx.array:
        if not self.shape:
            return self.file.read()
        rows = self.file.read(start, stop).reshape(stop - start, *self.shape[1:])
        if self.zero_centred:
            rows = rows.astype(mx.float32) + 1
            mx.eval(rows)
        return rows


@dataclass(frozen=True, slots=True)
class Float8Scales:
    """The scales of a float-8 matrix, or of some of its rows: one multiplier per block.

    Attributes:
        tensor: [block rows, block columns]; for a stack of matrices, one after the other.
        block_shape: rows and columns that share a scale.
        first_block_row: the row of `tensor` that belongs to row 0 of the matrix.
        first_row: the row of the matrix that `dequantize` counts as row 0.
    """

    tensor: FileTensor
    block_shape: tuple[int, int]
    first_block_row: int = 0
    first_row: int = 0

    def dequantize(self, bits: mx.array, start: int) -> mx.array:
        """Rows from `start` on: e4m3 as uint8 [rows, columns] -> bfloat16 of that shape."""
        rows, columns = bits.shape
        start += self.first_row
        stop = start + rows
        block_rows, block_columns = self.block_shape
        first_block, end_block = start // block_rows, -(-stop // block_rows)
        scales = self.tensor.read(
            self.first_block_row + first_block, self.first_block_row + end_block
        )
        scales = mx.repeat(scales.astype(mx.float32), block_rows, axis=0)
        scales = mx.repeat(scales, block_columns, axis=1)
        skip = start - first_block * block_rows
        values = mx.from_fp8(bits, mx.float32) * scales[skip : skip + rows, :columns]
        values = values.astype(mx.bfloat16)
        mx.eval(values)
        return values


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of a file's tensor, seen as [rows, columns]; float-8 if it has scales."""

    file: FileTensor
    first: int
    count: int
    scales: Float8Scales | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, self.file.shape[-1]

    @property
    def dtype(self) -> mx.Dtype:
        return mx.bfloat16 if self.scales else self.file.dtype

    def read(self, start: int, stop: int) -> mx.array:
        columns = self.file.shape[-1]
        matrix = replace(self.file, shape=(self.file.size // max(columns, 1), columns))
        rows = matrix.read(self.first + start, self.first + stop)
        if self.scales is None:
            return rows
        return self.scales.dequantize(rows, start) if rows.size else rows.astype(self.dtype)


@dataclass(frozen=True, slots=True)
class ExpertStack:
    """Matrices of one shape, one per expert, stacked on a new first axis."""

    experts: tuple[RowRange, ...]

    @property
    def file(self) -> FileTensor:
        return self.experts[0].file

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.experts), *self.experts[0].shape

    @property
    def dtype(self) -> mx.Dtype:
        return self.experts[0].dtype

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        matrices = [expert.read(0, expert.count) for expert in self.experts[start:stop]]
        stack = mx.stack(matrices)
        mx.eval(stack)
        return stack
