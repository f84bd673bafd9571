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
    stored = np.ascontiguousarray(words).view(np.uint8)
    if 8 % bits == 0:
        found = np.empty((*stored.shape, 8 // bits), np.uint8)
        for lane in range(8 // bits):
            found[..., lane] = stored >> lane * bits & 2**bits - 1
        return found.reshape(*leading, codes)
    stream = np.unpackbits(stored, axis=-1, bitorder="little")
    stream = stream[..., : codes * bits].reshape(*leading, codes, bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0]


def pack_nibbles(codes: Codes) -> Words:
    """The reverse of `unpack` for 4 bits and codes that fill their words."""
    pairs = codes[..., 0::2] | codes[..., 1::2] << 4
    return np.ascontiguousarray(pairs).view(np.uint32)


def unpack_awq(words: Words) -> Codes:
    """Words of eight 4-bit codes in AWQ's order [..., n] -> codes [..., 8 * n]."""
    *leading, count = words.shape
    found = np.empty((*leading, count, 8), np.uint8)
    for lane, place in enumerate(AWQ_ORDER):
        found[..., place] = words >> 4 * lane & 15
    return found.reshape(*leading, count * 8)
