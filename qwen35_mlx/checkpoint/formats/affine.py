"""Matrices of integers with a scale per group, in MLX's affine packing where that is exact.

A weight is (code - zero point) * scale, with a scale for each group of neighbours in a row. MLX's
affine mode is code * scale + bias. With bias = -zero point * scale both are the same number, if
the product can be stored: in the scale's own dtype where the zero point is a power of two, as that
of symmetric quantisation is, and in float32 for 16-bit scales with any zero point (11 bits times
8). There, `mx.dequantize` in float32 rounds nothing either.
"""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from qwen35_mlx.checkpoint.formats import words
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import ComputedRows, Matrix, PackedMatrix, RowReader
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization

# Neighbours that share a scale in MLX, and bits that its affine mode packs as `words` does.
_GROUP_SIZES = (128, 64, 32)
_AFFINE_BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True)
class IntegerMatrix:
    """A matrix [rows, columns] of codes of `bits` bits.

    Attributes:
        words: uint32 [rows, columns * bits / 32], codes packed along the row.
        scales: [rows, groups], float.
        zeros: [rows, groups], whole numbers as float32; None for 2 ** (bits - 1) throughout.
        symmetric: whether the config says that the zero points are 2 ** (bits - 1).
        group_of: the group of each column, where groups are no runs of neighbours.
    """

    file: FileTensor
    shape: tuple[int, int]
    bits: int
    words: RowReader
    scales: RowReader
    zeros: RowReader | None
    symmetric: bool
    group_of: npt.NDArray[np.int32] | None = None

    def matrix(self) -> Matrix:
        """Packed for MLX if that loses nothing, else plain, in the dtype of the scales."""
        quantization = self._affine()
        if quantization is None:
            return ComputedRows(self.file, self.shape, self.scales.dtype, self._plain_rows)
        dtype = self.scales.dtype if self._keeps_dtype else mx.float32
        shape = quantization.packed(self.shape)["scales"]
        repeats = shape[1] // max(1, self.scales.shape[1])
        parts = {
            "weight": self.words,
            "scales": ComputedRows(
                self.scales.file, shape, dtype, partial(self._scale_rows, repeats)
            ),
            "biases": ComputedRows(
                self.scales.file, shape, dtype, partial(self._bias_rows, repeats, dtype)
            ),
        }
        return PackedMatrix(self.shape, quantization, parts)

    @property
    def _keeps_dtype(self) -> bool:
        return self.zeros is None or self.symmetric

    def _affine(self) -> Quantization | None:
        rows_of_groups, columns = self.scales.shape[1], self.shape[1]
        if self.group_of is not None or self.bits not in _AFFINE_BITS or not rows_of_groups:
            return None
        if not self._keeps_dtype and self.scales.dtype == mx.float32:
            return None
        size = columns // rows_of_groups
        for group_size in _GROUP_SIZES:
            if size % group_size == 0:
                return Quantization(group_size, self.bits)
        return None

    def _scale_rows(self, repeats: int, start: int, stop: int) -> mx.array:
        return mx.repeat(self.scales.read(start, stop), repeats, axis=1)

    def _bias_rows(self, repeats: int, dtype: mx.Dtype, start: int, stop: int) -> mx.array:
        exact = -self._zero_rows(start, stop) * self.scales.read(start, stop).astype(mx.float32)
        biases = exact.astype(dtype)
        if self._keeps_dtype and not mx.array_equal(biases.astype(mx.float32), exact).item():
            raise Qwen35Error(
                f"{self.file.path}: the zero points of '{self.file.name}' are not those of the "
                "symmetric quantisation that config.json names: fetch the checkpoint again"
            )
        return mx.repeat(biases, repeats, axis=1)

    def _zero_rows(self, start: int, stop: int) -> mx.array:
        if self.zeros is None:
            return mx.array(2.0 ** (self.bits - 1))
        return self.zeros.read(start, stop)

    def _plain_rows(self, start: int, stop: int) -> mx.array:
        columns = self.shape[1]
        stored = np.array(self.words.read(start, stop))
        codes = mx.array(words.unpack(stored, self.bits)[:, :columns]).astype(mx.float32)
        scales = self.scales.read(start, stop).astype(mx.float32)
        zeros = mx.broadcast_to(self._zero_rows(start, stop), scales.shape)
        if self.group_of is not None:
            group_of = mx.array(self.group_of)
            return (codes - zeros[:, group_of]) * scales[:, group_of]
        groups = (stop - start, scales.shape[1], -1)
        values = (codes.reshape(groups) - zeros[..., None]) * scales[..., None]
        return values.reshape(stop - start, columns)
