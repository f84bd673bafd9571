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

Q4_K and Q5_K are 8 such groups, of 4 and 5 bits, in a block of 256. The scale of a group is d * s
and its minimum -(dmin * m), with s and m of 6 bits: float32 holds both exactly, and scale * code
too, so that the sum is rounded once as in the definition.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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


def _q4_k_codes(blocks: Blocks) -> np.ndarray:
    # Each 32 bytes hold two groups: one in the low nibbles, one in the high ones.
    return _nibbles(blocks[..., 16:].reshape(*blocks.shape[:-1], 4, 32))


def _q5_k_codes(blocks: Blocks) -> np.ndarray:
    low = blocks[..., 48:].reshape(*blocks.shape[:-1], 4, 32)
    codes = np.stack([low & 15, low >> 4], axis=-2).reshape(*blocks.shape[:-1], 8, 32)
    # Byte i has the fifth bits of element i of all 8 groups.
    group = np.arange(8, dtype=np.uint8)[:, None]
    codes |= (blocks[..., 16:48][..., None, :] >> group & 1) << 4
    return pack_codes(codes, 5)


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes uint8 [..., n * 8] -> bytes [..., n * bits], as MLX packs them: a stream of bits."""
    if bits == 8:
        return codes
    eights = codes.reshape(*codes.shape[:-1], -1, 8)
    words = np.zeros(eights.shape[:-1], np.uint64)
    for place in range(8):
        words |= eights[..., place].astype(np.uint64) << np.uint64(bits * place)
    stream = words.astype("<u8", copy=False).view(np.uint8).reshape(*words.shape, 8)[..., :bits]
    return stream.reshape(*codes.shape[:-1], -1)


def _k_scales(blocks: Blocks) -> np.ndarray:
    """d times the 8 scales of 6 bits in bytes 4 to 15: float32 [..., 8]."""
    packed = blocks[..., 4:16]
    first, last = packed[..., :4] & 63, packed[..., 8:] & 15 | packed[..., :4] >> 6 << 4
    return _products(blocks, 0, first, last)


def _k_biases(blocks: Blocks) -> np.ndarray:
    packed = blocks[..., 4:16]
    first, last = packed[..., 4:8] & 63, packed[..., 8:] >> 4 | packed[..., 4:8] >> 6 << 4
    return -_products(blocks, 2, first, last)


def _products(blocks: Blocks, at: int, *factors: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinity times 0: refused later
        return _float16(blocks, at).astype(np.float32)[..., None] * np.concatenate(factors, axis=-1)


@dataclass(frozen=True, slots=True)
class _Packing:
    """How the blocks of one type become parts.

    Attributes:
        codes: the bytes of a block's codes, as MLX packs them.
        scales, biases: of the groups of a block.
    """

    quantization: Quantization
    codes: Callable[[Blocks], np.ndarray]
    scales: Callable[[Blocks], np.ndarray]
    biases: Callable[[Blocks], np.ndarray] | None = None

    def parts(self, blocks: Blocks) -> list[np.ndarray]:
        """The rows of "weight", "scales" and, in affine mode, "biases"."""
        codes = np.ascontiguousarray(self.codes(blocks)).reshape(len(blocks), -1)
        parts = [codes.view(np.uint32), self.scales(blocks)]
        if self.biases is not None:
            parts.append(self.biases(blocks))
        return [part.reshape(len(blocks), -1) for part in parts]


def _scale(blocks: Blocks) -> np.ndarray:
    return _float16(blocks, 0)


def _minimum(blocks: Blocks) -> np.ndarray:
    return _float16(blocks, 2)


def _times(offset: float) -> Callable[[Blocks], np.ndarray]:
    def biases(blocks: Blocks) -> np.ndarray:
        with np.errstate(all="ignore"):  # what overflows is refused later
            return (_scale(blocks).astype(np.float32) * offset).astype(np.float16)

    return biases


_PACKINGS: Mapping[str, _Packing] = {
    "Q8_0": _Packing(Quantization(32, 8), lambda b: b[..., 2:] ^ 128, _scale, _times(-128)),
    "Q4_0": _Packing(Quantization(32, 4), lambda b: _nibbles(b[..., 2:]), _scale, _times(-8)),
    "Q4_1": _Packing(Quantization(32, 4), lambda b: _nibbles(b[..., 4:]), _scale, _minimum),
    "Q5_0": _Packing(
        Quantization(32, 5), lambda b: _five_bits(b[..., 2:6], b[..., 6:]), _scale, _times(-16)
    ),
    "Q5_1": _Packing(
        Quantization(32, 5), lambda b: _five_bits(b[..., 4:8], b[..., 8:]), _scale, _minimum
    ),
    "Q4_K": _Packing(Quantization(32, 4), _q4_k_codes, _k_scales, _k_biases),
    "Q5_K": _Packing(Quantization(32, 5), _q5_k_codes, _k_scales, _k_biases),
    "MXFP4": _Packing(
        Quantization(32, 4, "mxfp4"), lambda b: _nibbles(b[..., 1:]), lambda b: b[..., 0]
    ),
}
_NAN_EXPONENT = 255
_LARGEST = 65504  # of float16


@dataclass(slots=True)
class BlockParts:
    """The parts of a packed matrix, all computed when the first is read.

    Attributes:
        rows: of the matrix, or of a stack of matrices.
        shapes: of the parts by name, in the order in which `make` returns them.
        make: the parts of rows [start, stop) of `rows`, [rows, any] each.
    """

    rows: StoredRows
    shapes: Mapping[str, tuple[int, ...]]
    make: Callable[[int, int], Sequence[np.ndarray]]
    _range: tuple[int, int] = (0, 0)
    _kept: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the first axis of a part.

        Raises:
            Qwen35Error: the file cannot be read, or a scale is beyond the range of this packing.
        """
        if self._range != (start, stop) or name not in self._kept:
            each = self.rows.count // max(next(iter(self.shapes.values()))[0], 1)
            made = in_chunks(self.rows, start * each, stop * each, self.make)
            self._range, self._kept = (start, stop), dict(zip(self.shapes, made, strict=True))
            for part in made[1:]:
                self._check(part)
        part = self._kept.pop(name)
        # Parts are read in order: the largest is not kept for a second time.
        self._kept.pop("weight", None)
        return part.reshape(stop - start, *self.shapes[name][1:])

    def _check(self, part: np.ndarray) -> None:
        fits = part != _NAN_EXPONENT if part.dtype == np.uint8 else np.abs(part) <= _LARGEST
        if not fits.all():  # NaN does not fit either
            tensor = self.rows.tensor
            raise Qwen35Error(
                f"{tensor.path}: tensor '{tensor.name}' has a scale that is not finite or too "
                "large for float16: choose a file of another quantisation"
            )


@dataclass(frozen=True, slots=True)
class PackedPart:
    """One part of a packed matrix: "weight", "scales" or "biases"."""

    parts: BlockParts
    name: str
    dtype: mx.Dtype

    @property
    def file(self) -> GGUFTensor:
        return self.parts.rows.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts.shapes[self.name]

    def read(self, start: int, stop: int) -> mx.array:
        """Rows [start, stop) of the first axis, evaluated; only their bytes are read.

        Raises:
            Qwen35Error: as `BlockParts.read`.
        """
        if start == stop:
            return mx.zeros((0, *self.shape[1:]), self.dtype)
        array = mx.array(self.parts.read(self.name, start, stop))
        mx.eval(array)
        return array


def matrix_of_parts(
    rows: StoredRows,
    shape: tuple[int, ...],
    quantization: Quantization,
    scales: mx.Dtype,
    make: Callable[[int, int], Sequence[np.ndarray]],
) -> PackedMatrix:
    """A packed matrix [..., rows, columns] whose parts `make` computes, see `BlockParts`.

    Args:
        scales: the dtype of scales and biases.
    """
    parts = BlockParts(rows, quantization.packed(shape), make)
    dtypes = {"weight": mx.uint32, "scales": scales, "biases": scales}
    return PackedMatrix(
        shape, quantization, {name: PackedPart(parts, name, dtypes[name]) for name in parts.shapes}
    )


def packed_matrix(rows: StoredRows, shape: tuple[int, ...]) -> PackedMatrix | None:
    """A matrix in MLX's packing with the values of its blocks; None if its type has no such form.

    Args:
        rows: of the matrix, or of a stack of matrices.
        shape: [..., rows, columns] of the plain matrix.
    """
    packing = _PACKINGS.get(rows.tensor.stored_dtype)
    heads = rows.heads
    if packing is None or rows.scale is not None:
        return None
    if heads is not None and heads.width % packing.quantization.group_size:
        return None

    def make(start: int, stop: int) -> list[np.ndarray]:
        parts = packing.parts(rows.blocks(start, stop))
        if heads is not None and not rows.heads_are_whole_blocks:
            parts = [heads.sort(part) for part in parts]  # a head is whole groups
        return parts

    if packing.quantization.mode != "affine":
        scales = mx.uint8
    else:
        scales = mx.float32 if rows.tensor.stored_dtype.endswith("_K") else mx.float16
    return matrix_of_parts(rows, shape, packing.quantization, scales, make)
