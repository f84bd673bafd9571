"""Quantised matrices in the layout of `mx.quantize`."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE


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
        """Shapes of the tensors that replace a plain matrix [..., in], by the end of their name."""
        *rows, columns = shape
        weight = (*rows, columns * self.bits // 32)
        scales = (*rows, columns // self.group_size)
        if self.mode == "affine":
            return {"weight": weight, "scales": scales, "biases": scales}
        return {"weight": weight, "scales": scales}


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [..., out, in] packed by `mx.quantize`; a stack of matrices if it has more axes.

    Shapes: `Quantization.packed`. `biases` is None unless the mode is affine.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    quantization: Quantization

    @classmethod
    def quantized(cls, plain: mx.array, quantization: Quantization) -> "QuantizedWeight":
        """A plain matrix [..., out, in], packed."""
        q = quantization
        weight, scales, *biases = mx.quantize(plain, q.group_size, q.bits, q.mode)
        return cls(weight, scales, biases[0] if biases else None, q)

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scales, self.biases) if a is not None]

    def __getitem__(self, index: mx.array | int | slice) -> "QuantizedWeight":
        """One matrix of a stack; with a slice, some of them, or some rows of one matrix."""
        biases = None if self.biases is None else self.biases[index]
        return QuantizedWeight(self.weight[index], self.scales[index], biases, self.quantization)

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """The plain matrix, [..., out, in]."""
        return dequantize(self.weight, self.scales, self.biases, self.quantization, dtype)

    def unpacked_columns(self, dtype: mx.Dtype) -> mx.array:
        """The plain matrix transposed, [..., in, out], for the right-hand side of a product.

        On a CPU that is a copy: a BLAS may take less than half the time with it.
        """
        columns = self.dequantized(dtype).swapaxes(-1, -2)
        return mx.contiguous(columns) if mx.default_device() == mx.cpu else columns


# SIMD groups of a threadgroup that reads packed rows, at most: its threadgroup memory has to hold
# what they stage.
MAX_SIMD_GROUPS = 6


def chunk_values(bits: int) -> int:
    """Values of a packed row that a thread reads at once: `CHUNK` in the kernels.

    They fill four words; 32 values fill `bits` words where some values lie in two.
    """
    return 32 if 32 % bits else 128 // bits


def simd_groups_for(width: int, bits: int) -> int:
    """SIMD groups that read a packed row of `width` values, a chunk per thread and round.

    As few rounds as `MAX_SIMD_GROUPS` allows, with the work spread evenly over them.
    """
    needed = -(-width // chunk_values(bits) // SIMD_WIDTH)
    return -(-needed // -(-needed // MAX_SIMD_GROUPS))


def rounds_for(width: int, bits: int) -> int:
    """Rounds in which `simd_groups_for` SIMD groups read a row."""
    chunks = width // chunk_values(bits)
    return -(-chunks // (SIMD_WIDTH * simd_groups_for(width, bits)))


def dequantize(
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    quantization: Quantization,
    dtype: mx.Dtype,
) -> mx.array:
    """Rows packed by `mx.quantize` -> plain rows."""
    q = quantization
    return mx.dequantize(weight, scales, biases, q.group_size, q.bits, q.mode, dtype=dtype)


def quantized_matmul(x: mx.array, w: QuantizedWeight) -> mx.array:
    """x [..., in] times a packed matrix -> [..., out]."""
    if w.scales.shape[-1] == 1 and mx.cuda.is_available():
        # Wrong result where a row is a single group: MLX 0.32.4's kernel for Hopper.
        return unpacked_matmul(x, w)
    q = w.quantization
    return mx.quantized_matmul(x, w.weight, w.scales, w.biases, True, q.group_size, q.bits, q.mode)


def unpacked_matmul(x: mx.array, w: QuantizedWeight) -> mx.array:
    """`quantized_matmul` by the dequantised matrix: with many rows, unpacking it costs little."""
    return x @ w.unpacked_columns(x.dtype)


def gather_matmul(
    x: mx.array, w: QuantizedWeight, experts: mx.array, sorted_indices: bool = False
) -> mx.array:
    """Each input times the packed matrix of its expert; see `Linear.gather`."""
    q = w.quantization
    return mx.gather_qmm(
        x,
        w.weight,
        w.scales,
        w.biases,
        rhs_indices=experts,
        transpose=True,
        group_size=q.group_size,
        bits=q.bits,
        mode=q.mode,
        sorted_indices=sorted_indices,
    )


UNPACKED = "unpacked"
# By name, for `KernelSelection.matmul_prefill`.
PREFILL_VARIANTS: dict[str, Callable[[mx.array, QuantizedWeight], mx.array]] = {
    REFERENCE: quantized_matmul,
    UNPACKED: unpacked_matmul,
}
# Fewer rows than this are always multiplied by the packed matrix. On a CPU that takes longer than
# to unpack it, even for a few: more than decoding has, where each row is computed as it is alone.
MIN_UNPACKED_ROWS, CPU_MIN_UNPACKED_ROWS = 256, MAX_DECODE_TOKENS + 1


def matmul(x: mx.array, w: QuantizedWeight, prefill_variant: str) -> mx.array:
    """`quantized_matmul`, in the given variant where there are many rows."""
    on_cpu = mx.default_device() == mx.cpu
    many = x.size // x.shape[-1] >= (CPU_MIN_UNPACKED_ROWS if on_cpu else MIN_UNPACKED_ROWS)
    return PREFILL_VARIANTS[prefill_variant if many else REFERENCE](x, w)
