"""How kernels read the rows of a matrix: packed by `mx.quantize`, or plain."""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight, chunk_values

Matrix = mx.array | QuantizedWeight
# What `MODE` in include_packed_format.metal means.
_MODES = {
    **{Quantization(group, bits): 0 for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)},
    Quantization(32, 4, "mxfp4"): 1,
    Quantization(32, 8, "mxfp8"): 1,
    Quantization(16, 4, "nvfp4"): 2,
}
_PLAIN = {mx.bfloat16: 3, mx.float16: 4, mx.float32: 5}
# Metal passes arrays of fewer elements in the constant address space, which the bodies' casts rule
# out.
_MIN_ELEMENTS = 8


@dataclass(frozen=True, slots=True)
class RowFormat:
    """The constants of include_packed_format.metal.

    Attributes:
        mode: see there.
        bits: of a value.
        group_size: values that share a scale; any multiple of a chunk where there are none.
    """

    mode: int
    bits: int
    group_size: int

    @classmethod
    def of(cls, w: Matrix) -> "RowFormat | None":
        """The format of a matrix or of a stack of them; None if kernels do not read it."""
        if isinstance(w, mx.array):
            mode, bits, group_size = _PLAIN.get(w.dtype), 8 * w.itemsize, 32
        else:
            q = w.quantization
            mode, bits, group_size = _MODES.get(q), q.bits, q.group_size
        if mode is None:
            return None
        arrays = [w] if isinstance(w, mx.array) else w.arrays
        # A row is a whole number of chunks, and, for wide loads of x, of 32 values.
        whole = matrix_shape(w)[-1] % max(chunk_values(bits), 32) == 0
        one_type = len({array.dtype for array in arrays[1:]}) <= 1  # of scales and biases
        large = min(array.size for array in arrays) >= _MIN_ELEMENTS
        return cls(mode, bits, group_size) if whole and one_type and large else None

    def constants(self, prefix: str = "") -> dict[str, int]:
        """Under their names in the kernel bodies, after `prefix`."""
        return {
            f"{prefix}MODE": self.mode,
            f"{prefix}BITS": self.bits,
            f"{prefix}GS": self.group_size,
            f"{prefix}CHUNK": chunk_values(self.bits),
        }


def row_arrays(w: Matrix, filler: mx.array) -> list[mx.array]:
    """Words, scales and biases of a matrix; `filler` for what its format has not."""
    arrays = [w] if isinstance(w, mx.array) else w.arrays
    return arrays + [filler] * (3 - len(arrays))


def matrix_shape(w: Matrix) -> tuple[int, ...]:
    """[..., out, in]."""
    if isinstance(w, mx.array):
        return w.shape
    *rows, groups = w.scales.shape
    return (*rows, groups * w.quantization.group_size)


def dense(w: Matrix, dtype: mx.Dtype) -> mx.array:
    """The plain matrix, [..., out, in]."""
    return w.astype(dtype) if isinstance(w, mx.array) else w.dequantized(dtype)
