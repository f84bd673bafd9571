"""Seeded random inputs of the delta rule and of a Gated DeltaNet layer."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters


@dataclass(frozen=True, slots=True)
class DeltaCase:
    """Shapes as in `gated_delta`; decay per step drawn between the two bounds."""

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


@dataclass(frozen=True, slots=True)
class LayerCase:
    """A Gated DeltaNet layer's inputs between its projections."""

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
