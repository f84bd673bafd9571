"""Integers of a few bits in 32-bit words, as MLX and most quantised checkpoints pack them.

The codes of a row follow each other without gaps, from the lowest bit of the first word on; a code
of 3, 5, 6 or 7 bits may straddle two words.
"""

import math

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Codes = npt.NDArray[np.uint8]

# The order in which AWQ's GEMM kernels keep eight neighbours in a word, from the lowest bits on:
# the first word of a row holds the codes 0, 2, 4, 6, 1, 3, 5, 7.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def aligned(start: int, stop: int, bits: int) -> tuple[int, int]:
    """The codes [start, stop), widened to whole words that share no code with others."""
    step = 32 // math.gcd(bits, 32)
    return start // step * step, -(-stop // step) * step


def unpack(words: Words, bits: int) -> Codes:
    """Words [..., n] -> codes [..., n * 32 // bits]."""
    *leading, count = words.shape
    codes = count * 32 // bits
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        found = (words[..., None] >> shifts) & np.uint32(2**bits - 1)
        return found.astype(np.uint8).reshape(*leading, codes)
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    stream = stream[..., : codes * bits].reshape(*leading, codes, bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0]


def pack(codes: Codes, bits: int) -> Words:
    """The reverse of `unpack`, for bits that divide 32 and codes that fill their words."""
    *leading, count = codes.shape
    per_word = 32 // bits
    lanes = codes.reshape(*leading, count // per_word, per_word).astype(np.uint32)
    lanes <<= np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(lanes, axis=-1)


def unpack_awq(words: Words) -> Codes:
    """Words of eight 4-bit codes in AWQ's order [..., n] -> codes [..., 8 * n]."""
    *leading, count = words.shape
    lanes = unpack(words, 4).reshape(*leading, count, 8)
    ordered = np.empty_like(lanes)
    ordered[..., AWQ_ORDER] = lanes
    return ordered.reshape(*leading, count * 8)
