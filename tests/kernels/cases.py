"""Seeded inputs of the delta rule, and the rule in float64, for tests and benchmarks alike."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np


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
    """Largest difference over the largest magnitude wanted."""
    return float(np.abs(np.array(got, np.float64) - want).max() / max(np.abs(want).max(), 1e-30))
