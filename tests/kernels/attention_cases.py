"""Inputs of attention, and attention in float64."""

import mlx.core as mx
import numpy as np


def draw(keys, heads=(4, 2), dim=128, batch=1, dtype=mx.float32, room=0, seed=0, tokens=1):
    """q, k, v, gate and scale; k and v are views of buffers with `room` more rows."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)

    q = normal(batch, heads[0], tokens, dim)
    k, v = (normal(batch, heads[1], keys + room, dim)[:, :, :keys] for _ in range(2))
    gate = normal(batch, tokens, heads[0], 2 * dim)[..., dim:]
    return q, k, v, gate, dim**-0.5


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def unpacked(words: mx.array, scales: mx.array, biases: mx.array) -> np.ndarray:
    """Rows that `mx.quantize` has packed to 8 bits."""
    values = np.array(words).view(np.uint8).astype(np.float64)
    groups = values.reshape(*scales.shape, -1)
    return (groups * wide(scales)[..., None] + wide(biases)[..., None]).reshape(values.shape)


def float64(q, k, v, gate, scale) -> np.ndarray:
    """`decode_attention.reference`; keys and values may be arrays in float64."""
    q, k, v, gate = (x if isinstance(x, np.ndarray) else wide(x) for x in (q, k, v, gate))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = scale * (q @ k.swapaxes(-1, -2))
    tokens, keys = scores.shape[-2:]
    scores[..., ~np.tri(tokens, keys, keys - tokens, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    out = out.swapaxes(1, 2) / (1 + np.exp(-gate))
    return out.reshape(*out.shape[:2], -1)


def assert_equal_to_one_at_a_time(kernel, q, k, v, gate, scale, tail_rows=None):
    """To the bit, with the kernel's tail beginning elsewhere."""
    tokens, keys = q.shape[2], k.shape[2]
    together = kernel(q, k, v, gate, scale, tail_rows)
    for t in range(tokens):
        seen = keys - tokens + t + 1
        alone = kernel(
            q[:, :, t : t + 1], k[:, :, :seen], v[:, :, :seen], gate[:, t : t + 1], scale
        )
        assert mx.array_equal(together[:, t : t + 1], alone).item(), t
