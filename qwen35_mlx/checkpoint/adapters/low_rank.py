"""Low-rank changes of matrices, added as rows are read."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.checkpoint.tensor_readers import (
    CHUNK_ELEMENTS,
    PackedMatrix,
    RowReader,
    StoredTensor,
    plain,
)
from qwen35_mlx.kernels.quantized import Quantization

# up [*stack, out, rank] and down [*stack, rank, in], float32, not necessarily evaluated.
Factors = tuple[mx.array, mx.array]


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter does to a matrix W [*stack, out, in]: W + scale * up @ down.

    Attributes:
        file: a stored tensor of it, for error lines.
        rank: of `up @ down`.
        factors: reads both.
        magnitude: DoRA's: the length that each row of the result is given, [out]; None for LoRA.
    """

    file: StoredTensor
    rank: int
    scale: float
    factors: Callable[[], Factors]
    magnitude: RowReader | None = None

    def apply(self, rows: mx.array, factors: Factors, start: int, stop: int) -> mx.array:
        """Rows [start, stop) of the changed matrix, from those of W in float32."""
        up, down = factors
        if rows.ndim > 2:
            down = down[start:stop]
        rows = rows + self.scale * (up[start:stop] @ down)
        if self.magnitude is not None:
            length = mx.linalg.norm(rows, axis=-1, keepdims=True)
            rows = rows * (self.magnitude.read(start, stop).astype(mx.float32)[:, None] / length)
        return rows


class RecentFactors:
    """The factors that were read last: those of a stack of experts serve many reads."""

    def __init__(self) -> None:
        self._change: Change | None = None
        self._factors: Factors | None = None

    def of(self, change: Change) -> Factors:
        if self._factors is None or self._change is not change:
            self._change = self._factors = None
            factors = change.factors()
            mx.eval(*factors)
            self._change, self._factors = change, factors
        return self._factors


@dataclass(frozen=True, slots=True)
class FusedMatrix:
    """The plain values of a changed matrix, in float32.

    Attributes:
        base: the matrix without the change, plain.
        network_dtype: of the model that the matrix belongs to; its values are not rounded to it.
        quantization: how the model packs the matrix; None if it is plain.
    """

    base: RowReader
    change: Change
    recent: RecentFactors
    network_dtype: mx.Dtype
    quantization: Quantization | None

    @classmethod
    def of(
        cls, matrix: "RowReader | PackedMatrix", change: Change, recent: RecentFactors
    ) -> "FusedMatrix":
        packing = matrix.quantization if isinstance(matrix, PackedMatrix) else None
        return cls(plain(matrix), change, recent, matrix.dtype, packing)

    @property
    def file(self) -> StoredTensor:
        return self.base.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32

    def read(self, start: int, stop: int) -> mx.array:
        step = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.shape[1:])))
        parts = [
            self._rows(first, min(first + step, stop)) for first in range(start, stop, step)
        ] or [mx.zeros((0, *self.shape[1:]))]
        rows = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        mx.eval(rows)
        return rows

    def _rows(self, start: int, stop: int) -> mx.array:
        rows = self.base.read(start, stop).astype(mx.float32)
        rows = self.change.apply(rows, self.recent.of(self.change), start, stop)
        mx.eval(rows)
        return rows
