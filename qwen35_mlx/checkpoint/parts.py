"""Parts of matrices, for a network that is split over several processes.

Of a part in rows, only its bytes are read. Of one in columns, which are scattered over all rows,
whole rows are read and cut, a few at a time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.checkpoint.tensor_readers import (
    CHUNK_ELEMENTS,
    Matrix,
    PackedMatrix,
    RowReader,
    Stack,
    StoredTensor,
    WholeTensor,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig, Shard
from qwen35_mlx.model.split import Part, Piece, own_name, part_of, split_config


def take_parts(
    config: ModelConfig, matrices: Mapping[str, Matrix], shard: Shard
) -> tuple[ModelConfig, dict[str, Matrix]]:
    """The sizes and matrices of one process, by the names that they have there.

    Args:
        matrices: of the whole network, by canonical name.

    Raises:
        Qwen35Error: it cannot be split over so many processes; then in all of them.
    """
    unit = max(
        matrix.quantization.group_size if isinstance(matrix, PackedMatrix) else 1
        for name, matrix in matrices.items()
        if name.endswith(".down_proj.weight")
    )
    own = split_config(config, shard, unit)
    return own, {
        new: _take_part(name, matrix, part_of(name, config, own), shard.ranks)
        for name, matrix in matrices.items()
        if (new := own_name(name, config, shard)) is not None
    }


def _take_part(name: str, matrix: Matrix, part: Part | None, ranks: int) -> Matrix:
    """The part of a matrix that a process has.

    Args:
        name: canonical, for error lines.
        part: None for all of it.
        ranks: the number of processes.

    Raises:
        Qwen35Error: it cannot be split there, since neighbours in a row are packed or rotated
            together.
    """
    if part is None:
        return matrix
    axis = len(matrix.shape) + part.axis
    shape = (*matrix.shape[:axis], part.width, *matrix.shape[axis + 1 :])
    if not isinstance(matrix, PackedMatrix):
        return _take(matrix, axis, part.pieces)
    quantization = matrix.quantization
    readers: dict[str, RowReader] = {}
    for end, reader in matrix.parts.items():
        pieces = part.pieces
        if part.axis == -1:
            if matrix.rotation is not None:
                raise _together(name, matrix.shape[-1], ranks, "they are rotated together")
            unit = quantization.group_size
            if any((first or 0) % unit or count % unit for first, count in pieces):
                reason = f"neighbours share a scale in groups of {unit}"
                raise _together(name, matrix.shape[-1], ranks, reason)
            words, values = (quantization.bits, 32) if end == "weight" else (1, unit)
            pieces = tuple(
                (None if first is None else first * words // values, count * words // values)
                for first, count in pieces
            )
        readers[end] = _take(reader, axis, pieces)
    return PackedMatrix(shape, quantization, readers, matrix.rotation)


def _together(name: str, width: int, ranks: int, reason: str) -> Qwen35Error:
    return Qwen35Error(
        f"the {width} inputs of '{name}' cannot be split over {ranks} processes, as {reason}: "
        "choose fewer processes or another quantisation"
    )


def _take(reader: RowReader, axis: int, pieces: Sequence[Piece]) -> RowReader:
    if axis == 0:
        return _Rows(reader, axis, tuple(pieces))
    if isinstance(reader, WholeTensor) and reader.file.shape == reader.shape and axis == 1:
        count, *rest = reader.shape
        if rest[1:]:  # a stack of matrices: rows of each
            each = (WholeTensor(reader.file[i], tuple(rest)) for i in range(count))
            reader = Stack(tuple(each))
    if isinstance(reader, Stack):
        return Stack(tuple(_take(one, axis - 1, pieces) for one in reader.tensors))
    return _Slices(reader, axis, tuple(pieces))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Pieces of one axis of another reader, side by side."""

    whole: RowReader
    axis: int
    pieces: tuple[Piece, ...]

    @property
    def file(self) -> StoredTensor:
        return self.whole.file

    @property
    def shape(self) -> tuple[int, ...]:
        width = sum(count for _, count in self.pieces)
        return (*self.whole.shape[: self.axis], width, *self.whole.shape[self.axis + 1 :])

    @property
    def dtype(self) -> mx.Dtype:
        return self.whole.dtype


class _Rows(_Pieces):
    """Pieces of the first axis, of which only the bytes are read."""

    __slots__ = ()

    def read(self, start: int, stop: int) -> mx.array:
        return _side_by_side(list(self._pieces(start, stop)), 0)

    def _pieces(self, start: int, stop: int) -> Iterator[mx.array]:
        before = 0
        for first, count in self.pieces:
            skip, end = max(start - before, 0), min(stop - before, count)
            before += count
            if skip < end and first is None:
                yield mx.zeros((end - skip, *self.whole.shape[1:]), self.dtype)
            elif skip < end and first is not None:
                yield self.whole.read(first + skip, first + end)
        if start == stop:
            yield mx.zeros((0, *self.whole.shape[1:]), self.dtype)


class _Slices(_Pieces):
    """Pieces of another axis, cut from whole rows."""

    __slots__ = ()

    def read(self, start: int, stop: int) -> mx.array:
        step = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.whole.shape[1:])))
        cut = [self._rows(at, min(at + step, stop)) for at in range(start, stop, step)]
        return _side_by_side(cut or [self._rows(start, stop)], 0)

    def _rows(self, start: int, stop: int) -> mx.array:
        rows = self.whole.read(start, stop)
        index: list[slice] = [slice(None)] * rows.ndim
        pieces: list[mx.array] = []
        for first, count in self.pieces:
            index[self.axis] = slice(count) if first is None else slice(first, first + count)
            piece = rows[tuple(index)]
            pieces.append(mx.zeros_like(piece) if first is None else piece)
        return _side_by_side(pieces, self.axis)


def _side_by_side(arrays: list[mx.array], axis: int) -> mx.array:
    """One array of them, evaluated, that keeps no memory of others."""
    joined = mx.contiguous(arrays[0]) if len(arrays) == 1 else mx.concatenate(arrays, axis)
    mx.eval(joined)
    return joined
