"""Quantised matrices, as `mx.quantize` makes them."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD
from qwen35_mlx.kernels.selection import REFERENCE


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

    def __getitem__(self, index: mx.array | int) -> "QuantizedWeight":
        """One matrix of a stack."""
        biases = None if self.biases is None else self.biases[index]
        return QuantizedWeight(self.weight[index], self.scales[index], biases, self.quantization)

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """The plain matrix, [..., out, in]."""
        return dequantize(self.weight, self.scales, self.biases, self.quantization, dtype)


# SIMD groups of a threadgroup that reads packed rows, at most: what they stage must fit in its
# memory.
MOST_SIMDS = 6


def simds_for(width: int, bits: int) -> int:
    """SIMD groups that read a packed row of so many values, four words a thread and round.

    As few rounds as `MOST_SIMDS` allow, and so many that a thread has as much to do in each.
    """
    groups = -(-width * bits // 128 // SIMD)
    return -(-groups // -(-groups // MOST_SIMDS))


def dequantize(
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    how: Quantization,
    dtype: mx.Dtype,
) -> mx.array:
    """Rows packed by `mx.quantize`, plain again."""
    return mx.dequantize(weight, scales, biases, how.group_size, how.bits, how.mode, dtype=dtype)


def multiply(x: mx.array, w: QuantizedWeight) -> mx.array:
    """x [..., in] by a packed matrix -> [..., out]."""
    if w.scales.shape[-1] == 1 and mx.cuda.is_available():
        # Where a row is a single group, MLX 0.32.4's kernel for Hopper multiplies wrongly.
        return multiply_plain(x, w)
    how = w.quantization
    return mx.quantized_matmul(
        x, w.weight, w.scales, w.biases, True, how.group_size, how.bits, how.mode
    )


def multiply_plain(x: mx.array, w: QuantizedWeight) -> mx.array:
    """`multiply` by the unpacked matrix: reading it once more is little beside many products."""
    return x @ w.dequantized(x.dtype).T


def gather(
    x: mx.array, w: QuantizedWeight, experts: mx.array, sorted_indices: bool = False
) -> mx.array:
    """Each input by a packed matrix of its own; see `Linear.gather`."""
    how = w.quantization
    return mx.gather_qmm(
        x,
        w.weight,
        w.scales,
        w.biases,
        rhs_indices=experts,
        transpose=True,
        group_size=how.group_size,
        bits=how.bits,
        mode=how.mode,
        sorted_indices=sorted_indices,
    )


UNPACKED = "unpacked"
# By name, for `KernelSelection.matmul_prefill`.
FORMS: dict[str, Callable[[mx.array, QuantizedWeight], mx.array]] = {
    REFERENCE: multiply,
    UNPACKED: multiply_plain,
}
# From how many rows on unpacking may pay for itself.
UNPACK_FROM = 256


def product(x: mx.array, w: QuantizedWeight, form: str) -> mx.array:
    """`multiply` in the form chosen for many rows, where these are many."""
    many = x.size // x.shape[-1] >= UNPACK_FROM
    return FORMS[form if many else REFERENCE](x, w)
