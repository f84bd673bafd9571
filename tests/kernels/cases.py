"""Seeded inputs of the delta rule and of its layer, and both in float64."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters


@dataclass(frozen=True, slots=True)
class DeltaCase:
    """Shapes as in `gated_delta_rule`; the decay of a token is drawn between the two bounds."""

    tokens: int
    batch: int = 1
    key_heads: int = 2
    value_heads: int = 4
    dk: int = 32
    dv: int = 32
    decay: tuple[float, float] = (0.5, 1.0)
    seed: int = 0

    def draw(self) -> dict[str, np.ndarray]:
        """q, k, v, g, beta, state, float32: q and k normalised, q scaled."""
        rng = np.random.default_rng(self.seed)
        keys = (self.batch, self.tokens, self.key_heads, self.dk)
        values = (self.batch, self.tokens, self.value_heads)

        def unit(shape: tuple[int, ...]) -> np.ndarray:
            x = rng.standard_normal(shape)
            return x / np.linalg.norm(x, axis=-1, keepdims=True)

        drawn = {
            "q": unit(keys) * self.dk**-0.5,
            "k": unit(keys),
            "v": rng.standard_normal((*values, self.dv)),
            "g": np.log(rng.uniform(*self.decay, values)),
            "beta": rng.uniform(0, 1, values),
            "state": rng.standard_normal((self.batch, self.value_heads, self.dv, self.dk)),
        }
        return {name: x.astype(np.float32) for name, x in drawn.items()}


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


@dataclass(frozen=True, slots=True)
class LayerCase:
    """Inputs of a Gated DeltaNet layer between its projections."""

    tokens: int
    batch: int = 1
    key_heads: int = 2
    value_heads: int = 4
    dim: int = 32
    dtype: mx.Dtype = mx.float32
    seed: int = 0

    def draw(self) -> tuple[mx.array, mx.array, mx.array, DeltaNetParameters]:
        """projected, conv, state and the layer, as `delta_net.mix` takes them."""
        rng = np.random.default_rng(self.seed)
        channels = (2 * self.key_heads + self.value_heads) * self.dim

        def normal(*shape: int) -> mx.array:
            return mx.array(rng.standard_normal(shape).astype(np.float32))

        def uniform(low: float, high: float) -> mx.array:
            return mx.array(rng.uniform(low, high, self.value_heads).astype(np.float32))

        layer = DeltaNetParameters(
            key_heads=self.key_heads,
            value_heads=self.value_heads,
            key_head_dim=self.dim,
            value_head_dim=self.dim,
            taps=0.4 * normal(4, channels),
            decay_rate=mx.exp(uniform(-5, 0.5)),
            dt_bias=uniform(-4, 1),
            norm=1 + 0.2 * normal(self.dim),
            eps=1e-6,
        )
        width = channels + self.value_heads * self.dim + 2 * self.value_heads
        projected = normal(self.batch, self.tokens, width).astype(self.dtype)
        conv = normal(self.batch, 3, channels).astype(self.dtype)
        return projected, conv, normal(self.batch, self.value_heads, self.dim, self.dim), layer


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
