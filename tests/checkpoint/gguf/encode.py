"""Matrices in blocks of K types, by the layout of ggml-quants.h; nearest codes, no search."""

import numpy as np


def _nearest(values: np.ndarray, step: np.ndarray, last: int) -> np.ndarray:
    codes = np.divide(values, step, out=np.zeros_like(values), where=step != 0)
    return np.clip(np.rint(codes), 0, last).astype(np.uint8)


def _halves(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").view(np.uint8).reshape(*values.shape[:-1], 2)


def q4_k(matrix: np.ndarray) -> np.ndarray:
    """float32 [..., columns] -> uint8 [..., columns / 256 * 144]."""
    groups = matrix.astype(np.float32).reshape(-1, 8, 32)
    low = np.maximum(-groups.min(axis=2), 0)
    step = (groups.max(axis=2) + low) / 15
    d, dmin = (
        x.max(axis=1, keepdims=True).astype(np.float16) / np.float16(63) for x in (step, low)
    )
    scale = _nearest(step, d.astype(np.float32), 63)
    minimum = _nearest(low, dmin.astype(np.float32), 63)
    steps, lows = (d.astype(np.float32) * scale, dmin.astype(np.float32) * minimum)
    codes = _nearest(groups + lows[..., None], steps[..., None], 15)
    packed = np.zeros((len(groups), 12), np.uint8)
    packed[:, :4] = scale[:, :4] | scale[:, 4:] >> 4 << 6
    packed[:, 4:8] = minimum[:, :4] | minimum[:, 4:] >> 4 << 6
    packed[:, 8:] = scale[:, 4:] & 15 | (minimum[:, 4:] & 15) << 4
    nibbles = codes[:, 0::2] | codes[:, 1::2] << 4
    blocks = [_halves(d), _halves(dmin), packed, nibbles.reshape(-1, 128)]
    return np.concatenate(blocks, axis=1).reshape(*matrix.shape[:-1], -1)


def q6_k(matrix: np.ndarray) -> np.ndarray:
    """float32 [..., columns] -> uint8 [..., columns / 256 * 210]."""
    groups = matrix.astype(np.float32).reshape(-1, 16, 16)
    step = np.abs(groups).max(axis=2) / 31
    d = (step.max(axis=1, keepdims=True) / 127).astype(np.float16)
    scale = _nearest(step, d.astype(np.float32), 127)
    steps = (d.astype(np.float32) * scale)[..., None]
    codes = _nearest(groups + 32 * steps, steps, 63).reshape(-1, 2, 4, 32)
    # Quarters 0 and 2 of a half share the bytes of their low bits, as do 1 and 3.
    low = codes[:, :, :2] & 15 | (codes[:, :, 2:] & 15) << 4
    high = np.bitwise_or.reduce(codes >> 4 << np.array([[0], [2], [4], [6]], np.uint8), axis=2)
    blocks = [low.reshape(-1, 128), high.reshape(-1, 64), scale, _halves(d)]
    return np.concatenate(blocks, axis=1).reshape(*matrix.shape[:-1], -1)
