"""The delta rule, a Gated DeltaNet layer and the Hadamard transform in float64; comparison."""

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters


def float64_rule(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, beta: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The delta rule token by token in float64, on the same inputs."""
    q, k, v, g, beta, state = (np.asarray(x, np.float64) for x in (q, k, v, g, beta, state))
    group = v.shape[2] // k.shape[2]
    y = np.empty(v.shape)
    state = state.copy()
    for b, t, h in np.ndindex(v.shape[:3]):
        s, key = state[b, h], k[b, t, h // group]
        s *= np.exp(g[b, t, h])
        s += np.outer((v[b, t, h] - s @ key) * beta[b, t, h], key)
        y[b, t, h] = s @ q[b, t, h // group]
    return y, state


def to_mlx(drawn: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(x) for name, x in drawn.items()}


def relative_error(got: mx.array, want: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude of `want`."""
    difference = np.array(got.astype(mx.float32), np.float64) - want
    return float(np.abs(difference).max() / max(np.abs(want).max(), 1e-30))


def float64_layer(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`delta_net.mix` in float64: y [B, T, value_dim], conv and state."""

    def wide(x: mx.array) -> np.ndarray:
        return np.array(x.astype(mx.float32), np.float64)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)

    batch, tokens, _ = projected.shape
    gates = layer.channels + layer.value_dim
    bounds = [layer.channels, gates, gates + layer.value_heads]
    qkv, z, b, a = np.split(wide(projected), bounds, axis=-1)
    window = np.concatenate([wide(conv), qkv], axis=1)
    taps = wide(layer.taps)
    mixed = sum(window[:, i : i + tokens] * taps[i] for i in range(layer.kernel))
    mixed = mixed * sigmoid(mixed)
    q, k, v = np.split(mixed, [layer.key_dim, 2 * layer.key_dim], axis=-1)
    keys = (batch, tokens, layer.key_heads, layer.key_head_dim)
    values = (batch, tokens, layer.value_heads, layer.value_head_dim)
    g = -wide(layer.decay_rate) * np.logaddexp(0, a + wide(layer.dt_bias))
    q, k = unit(q.reshape(keys)) * layer.key_head_dim**-0.5, unit(k.reshape(keys))
    y, state_out = float64_rule(q, k, v.reshape(values), g, sigmoid(b), wide(state))
    z = z.reshape(values)
    y = y / np.sqrt((y * y).mean(-1, keepdims=True) + layer.eps) * wide(layer.norm)
    y = (y * z * sigmoid(z)).reshape(batch, tokens, -1)
    return y, window[:, tokens:], state_out


def hadamard(x: np.ndarray, block: int) -> np.ndarray:
    """Each block of x [..., in] times its Walsh-Hadamard matrix, in float64.

    One bit of the index at a time, which needs no matrix.
    """
    pairs = x.astype(np.float64).reshape(-1, block)
    for bit in range(block.bit_length() - 1):
        pairs = pairs.reshape(-1, 2, 2**bit)
        a, b = pairs[:, 0], pairs[:, 1]
        pairs = np.stack([a + b, a - b], axis=1)
    return pairs.reshape(x.shape) / np.sqrt(block)
