"""Bytes of random tensors by kind, made once and repeated: a source of any size costs no memory."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

_ELEMENTS = 4 << 20


def pieces(kind: str, nbytes: int) -> Iterator[memoryview]:
    """`nbytes` bytes of a kind: see `_block`."""
    block = _block(kind)
    for start in range(0, nbytes, len(block)):
        yield block[: min(len(block), nbytes - start)]


@cache
def _block(kind: str) -> memoryview:
    """A few MB of one kind.

    "weights" are bfloat16 of a standard deviation of 0.02, "codes" any bytes, "sevens" codes of 4
    bits that are 7, "E4M3" and "E4M3 scales" are finite, "BF16", "F16" and "F32" are scales from
    0.001 to 0.003. The others are whole blocks of ggml's type of that name.
    """
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, _ELEMENTS, np.uint8)
    scales = rng.uniform(0.001, 0.003, _ELEMENTS).astype(np.float32)
    match kind:
        case "weights":
            values = rng.normal(0, 0.02, _ELEMENTS).astype(np.float32)
            found = _bfloat16(values)
        case "codes":
            found = codes
        case "sevens":
            found = np.full_like(codes, 0x77)
        case "E4M3":
            found = codes & 0b10111111
        case "E4M3 scales":
            found = codes & 0b00111111
        case "BF16":
            found = _bfloat16(scales)
        case "F16":
            found = scales.astype(np.float16)
        case "F32":
            found = scales
        case _:
            found = _blocks(kind, codes, scales)
    data: Any = np.ascontiguousarray(found)
    return memoryview(data).cast("B")


def _bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _blocks(kind: str, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks of ggml: float16 scales at their places, random codes elsewhere."""
    size, places = {"Q8_0": (34, (0,)), "Q4_K": (144, (0, 2)), "Q6_K": (210, (208,))}[kind]
    count = len(codes) // size
    blocks = codes[: count * size].reshape(count, size).copy()
    half = (scales[:count] / 32).astype(np.float16).view(np.uint8).reshape(count, 2)
    for place in places:
        blocks[:, place : place + 2] = half
    return blocks
