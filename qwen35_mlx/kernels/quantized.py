"""Quantised matrices, as `mx.quantize` makes them."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Quantization:
    """How `mx.quantize` packs a matrix along its last axis.

    Attributes:
        group_size: neighbours in a row that share a scale (and, in affine mode, a bias).
        bits: per element.
        mode: affine, mxfp4, mxfp8 or nvfp4.
    """

    group_size: int
    bits: int
    mode: str = "affine"

    def packed(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that stand for a plain matrix [..., in], by their last name."""
        *rows, columns = shape
        weight = (*rows, columns * self.bits // 32)
        scales = (*rows, columns // self.group_size)
        if self.mode == "affine":
            return {"weight": weight, "scales": scales, "biases": scales}
        return {"weight": weight, "scales": scales}


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [..., out, in] packed by `mx.quantize`.

    Shapes: `Quantization.packed`; biases are None but in affine mode.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    quantization: Quantization

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scales, self.biases) if a is not None]

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """The plain matrix, [..., out, in]."""
        return dequantize(self.weight, self.scales, self.biases, self.quantization, dtype)


def dequantize(
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    how: Quantization,
    dtype: mx.Dtype,
) -> mx.array:
    """Rows packed by `mx.quantize`, plain again."""
    return mx.dequantize(weight, scales, biases, how.group_size, how.bits, how.mode, dtype=dtype)
