"""Blocks of ggml as parts of `mx.quantize`'s packing, without loss.

An affine group of MLX is scale * code + bias, with codes from 0 on. These blocks of 32 are such
groups, with a scale d and sometimes a minimum m, both float16 (ggml/src/ggml-common.h):

| type | value       | code  | bits | bias   |
|------|-------------|-------|------|--------|
| Q8_0 | q * d       | q+128 | 8    | -128 d |
| Q4_0 | (c - 8) d   | c     | 4    | -8 d   |
| Q4_1 | c * d + m   | c     | 4    | m      |
| Q5_0 | (c - 16) d  | c     | 5    | -16 d  |
| Q5_1 | c * d + m   | c     | 5    | m      |

The biases are d times a power of two, so float16 holds them exactly unless they overflow. In
float32, scale * code and the sum are exact too, but for the sum in Q4_1 and Q5_1, which both
definitions round once. MXFP4 is MLX's mode of that name: codes of float-4, one exponent a block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.gguf.blocks import StoredRows, in_chunks
from qwen35_mlx.checkpoint.gguf.header import GGUFTensor
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization

Blocks = np.ndarray  # uint8 [rows, blocks of a row, bytes of a block]


def _nibbles(halves: np.ndarray) -> np.ndarray:
    """ggml's 16 bytes, elements j and j + 16 in byte j -> MLX's, elements 2j and 2j + 1."""
    low, high = halves & 15, halves >> 4
    pairs = [low[..., 0::2] | low[..., 1::2] << 4, high[..., 0::2] | high[..., 1::2] << 4]
    return np.concatenate(pairs, axis=-1)


def _five_bits(high: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """ggml's fifth bits (4 bytes) and its low nibbles (16) -> MLX's 20 bytes, a stream of bits."""
    codes = np.concatenate([halves & 15, halves >> 4], axis=-1)
    codes |= np.unpackbits(high, axis=-1, bitorder="little") << 4
    eights = codes.reshape(*codes.shape[:-1], 4, 8).astype(np.uint64)
    words = np.bitwise_or.reduce(eights << np.arange(0, 40, 5, dtype=np.uint64), axis=-1)
    stream = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8)[..., :5]
    return stream.reshape(*codes.shape[:-1], 20)


def _float16(blocks: Blocks, at: int) -> np.ndarray:
    """The number at byte `at` of each block: float16 [rows, blocks of a row]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0]


@dataclass(frozen=True, slots=True)
class _Packing:
    """How the blocks of one type become parts.

    Attributes:
        codes: the bytes of a block's codes, as MLX packs them.
        offset: bias / scale; None if the block has a minimum.
    """

    quantization: Quantization
    codes: Callable[[Blocks], np.ndarray]
    offset: float | None = None

    def part(self, name: str, blocks: Blocks) -> np.ndarray:
        """The rows of a part: "weight", "scales" or "biases"."""
        if name == "weight":
            codes = np.ascontiguousarray(self.codes(blocks))
            return codes.reshape(len(blocks), -1).view(np.uint32)
        if self.quantization.mode != "affine":
            return np.ascontiguousarray(blocks[..., 0])
        if name == "scales":
            return _float16(blocks, 0)
        if self.offset is None:
            return _float16(blocks, 2)
        with np.errstate(all="ignore"):
            return (_float16(blocks, 0).astype(np.float32) * self.offset).astype(np.float16)


_PACKINGS: Mapping[str, _Packing] = {
    "Q8_0": _Packing(Quantization(32, 8), lambda b: b[..., 2:] ^ 128, -128),
    "Q4_0": _Packing(Quantization(32, 4), lambda b: _nibbles(b[..., 2:]), -8),
    "Q4_1": _Packing(Quantization(32, 4), lambda b: _nibbles(b[..., 4:])),
    "Q5_0": _Packing(Quantization(32, 5), lambda b: _five_bits(b[..., 2:6], b[..., 6:]), -16),
    "Q5_1": _Packing(Quantization(32, 5), lambda b: _five_bits(b[..., 4:8], b[..., 8:])),
    "MXFP4": _Packing(Quantization(32, 4, "mxfp4"), lambda b: _nibbles(b[..., 1:])),
}
_NAN_EXPONENT = 255


@dataclass(frozen=True, slots=True)
class PackedPart:
    """One part of a packed matrix, computed from the blocks that are read.

    Attributes:
        rows: the rows of the matrix; `shape` has a row for each of them.
        name: "weight", "scales" or "biases".
    """

    rows: StoredRows
    shape: tuple[int, ...]
    name: str

    @property
    def file(self) -> GGUFTensor:
        return self.rows.tensor

    @property
    def dtype(self) -> mx.Dtype:
        if self.name == "weight":
            return mx.uint32
        affine = _PACKINGS[self.file.stored_dtype].quantization.mode == "affine"
        return mx.float16 if affine else mx.uint8

    def read(self, start: int, stop: int) -> mx.array:
        """Rows [start, stop) of the first axis, evaluated; only their bytes are read.

        Raises:
            Qwen35Error: the file cannot be read, or a scale is beyond the range of this packing.
        """
        each = self.rows.count // max(self.shape[0], 1)
        part = in_chunks(self.rows, start * each, stop * each, self._part)
        fits = (part != _NAN_EXPONENT) if part.dtype == np.uint8 else np.isfinite(part)
        if self.name != "weight" and not fits.all():
            raise Qwen35Error(
                f"{self.file.path}: tensor '{self.file.name}' has a scale that is not finite or "
                "too large for float16: choose a file of another quantisation"
            )
        array = mx.array(part).reshape(stop - start, *self.shape[1:])
        mx.eval(array)
        return array

    def _part(self, start: int, stop: int) -> np.ndarray:
        packing = _PACKINGS[self.file.stored_dtype]
        return packing.part(self.name, self.rows.blocks(start, stop))


def packed_matrix(rows: StoredRows, shape: tuple[int, ...]) -> PackedMatrix | None:
    """A matrix in MLX's packing with the values of its blocks; None if its type has no such form.

    Args:
        rows: of the matrix, or of a stack of matrices.
        shape: [..., rows, columns] of the plain matrix.
    """
    packing = _PACKINGS.get(rows.tensor.stored_dtype)
    if packing is None or not rows.heads_are_whole_blocks or rows.scale is not None:
        return None
    parts = {
        name: PackedPart(rows, part_shape, name)
        for name, part_shape in packing.quantization.packed(shape).items()
    }
    return PackedMatrix(shape, packing.quantization, parts)
