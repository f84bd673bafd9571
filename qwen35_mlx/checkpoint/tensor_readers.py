"""Where a canonical tensor's rows come from: one file tensor, a part of it, or many of them."""

from dataclasses import dataclass, replace
from typing import Protocol

import mlx.core as mx

from qwen35_mlx.checkpoint.safetensors import FileTensor


class Source(Protocol):
    """A tensor that can be read by rows of its first axis."""

    @property
    def file(self) -> FileTensor:
        """The tensor on disk it comes from, the first if there are several."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> mx.Dtype: ...

    def read(self, start: int, stop: int) -> mx.array:
        """Rows [start, stop), evaluated."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A file tensor as it is, but for its shape and, for a zero-centred norm, the missing 1.

    Attributes:
        shape: row by row the same elements as in the file.
        centred: the file holds w where (1 + w) is meant; the sum is made and kept in float32.
    """

    file: FileTensor
    shape: tuple[int, ...]
    centred: bool = False

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32 if self.centred else self.file.dtype

    def read(self, start: int, stop: int) -> mx.array:
        if not self.shape:
            return self.file.read()
        rows = self.file.read(start, stop).reshape(stop - start, *self.shape[1:])
        if self.centred:
            rows = rows.astype(mx.float32) + 1
            mx.eval(rows)
        return rows


@dataclass(frozen=True, slots=True)
class BlockScales:
    """Multipliers of a float-8 matrix, one per block.

    Attributes:
        tensor: [block rows, block columns].
        block: rows and columns that share a scale.
        first: block row of the matrix's row 0 (a stack of matrices keeps its scales in one tensor).
        skipped: rows of that matrix before those in question.
    """

    tensor: FileTensor
    block: tuple[int, int]
    first: int = 0
    skipped: int = 0

    def apply(self, bits: mx.array, start: int) -> mx.array:
        """Float-8 (e4m3) rows [rows, columns] as uint8, from row `start` on -> bfloat16."""
        rows, columns = bits.shape
        start += self.skipped
        high, wide = self.block
        above = start // high
        scales = self.tensor.read(self.first + above, self.first - (-(start + rows) // high))
        scales = mx.repeat(scales.astype(mx.float32), high, axis=0)
        scales = mx.repeat(scales, wide, axis=1)
        offset = start - above * high
        values = mx.from_fp8(bits, mx.float32) * scales[offset : offset + rows, :columns]
        values = values.astype(mx.bfloat16)
        mx.eval(values)
        return values


@dataclass(frozen=True, slots=True)
class Rows:
    """Neighbouring rows of a file tensor seen as [.., columns]; float-8 with its scales."""

    file: FileTensor
    first: int
    count: int
    scales: BlockScales | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, self.file.shape[-1]

    @property
    def dtype(self) -> mx.Dtype:
        return mx.bfloat16 if self.scales else self.file.dtype

    def read(self, start: int, stop: int) -> mx.array:
        columns = self.file.shape[-1]
        flat = replace(self.file, shape=(self.file.size // max(columns, 1), columns))
        rows = flat.read(self.first + start, self.first + stop)
        if self.scales is None:
            return rows
        return self.scales.apply(rows, start) if rows.size else rows.astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices of one shape, one per expert."""

    parts: tuple[Rows, ...]

    @property
    def file(self) -> FileTensor:
        return self.parts[0].file

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.parts), *self.parts[0].shape

    @property
    def dtype(self) -> mx.Dtype:
        return self.parts[0].dtype

    def read(self, start: int, stop: int) -> mx.array:
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        stack = mx.stack([part.read(0, part.count) for part in self.parts[start:stop]])
        mx.eval(stack)
        return stack
