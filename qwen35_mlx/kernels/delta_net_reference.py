"""A Gated DeltaNet layer between its two projections, in plain MLX: the definition.

Convolution, norms, gates, rule, norm. `delta_net` has the kernels that do the same.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gated_delta import gated_delta

L2_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class DeltaNetParameters:
    """One layer's sizes and small weights.

    Attributes:
        taps: [kernel, channels] float32, the causal convolution over q, k and v.
        decay_rate: [nv] float32, exp(A_log).
        dt_bias: [nv] float32.
        norm: [dv] float32, of the gated norm.
        eps: of the gated norm.
    """

    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    taps: mx.array
    decay_rate: mx.array
    dt_bias: mx.array
    norm: mx.array
    eps: float

    @property
    def kernel(self) -> int:
        return self.taps.shape[0]

    @property
    def channels(self) -> int:
        """Of the convolution: q, k and v side by side."""
        return self.taps.shape[1]

    @property
    def key_dim(self) -> int:
        return self.key_heads * self.key_head_dim

    @property
    def value_dim(self) -> int:
        return self.value_heads * self.value_head_dim

    def empty(self, batch: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """conv and state before the first token."""
        heads = (self.value_heads, self.value_head_dim, self.key_head_dim)
        return (
            mx.zeros((batch, self.kernel - 1, self.channels), dtype),
            mx.zeros((batch, *heads), mx.float32),
        )


def reference(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    valid: mx.array | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """What lies between the projections.

    All float32 between reading `projected` and writing y.

    Args:
        projected: [B, T, channels + value_dim + 2 nv], q | k | v | z | b | a of each token.
        conv: [B, kernel - 1, channels], inputs of the convolution before these tokens.
        state: [B, nv, dv, dk] float32, the rule's state.
        valid: [B, T] bool, False at padding on the left, which then leaves no trace.

    Returns:
        y [B, T, value_dim] in projected's dtype, and the new conv and state.
    """
    batch, tokens, _ = projected.shape
    gates = layer.channels + layer.value_dim
    bounds = [layer.channels, gates, gates + layer.value_heads]
    qkv, z, b, a = mx.split(projected, bounds, axis=-1)
    if valid is not None:
        # Keys and values of nothing: an empty state stays empty, whatever the gates say.
        qkv = mx.where(valid[..., None], qkv, 0.0)
    window = mx.concatenate([conv, qkv], axis=1)
    # A copy, or the state would keep the whole prompt's projections alive.
    conv = mx.contiguous(window[:, tokens:])
    window = window.astype(mx.float32)
    mixed = window[:, :tokens] * layer.taps[0]
    for i in range(1, layer.kernel):
        mixed = mixed + window[:, i : i + tokens] * layer.taps[i]
    mixed = mixed * mx.sigmoid(mixed)
    q, k, v = mx.split(mixed, [layer.key_dim, 2 * layer.key_dim], axis=-1)
    keys = (batch, tokens, layer.key_heads, layer.key_head_dim)
    values = (batch, tokens, layer.value_heads, layer.value_head_dim)
    q = l2_norm(q.reshape(keys)) * layer.key_head_dim**-0.5
    k = l2_norm(k.reshape(keys))
    beta = mx.sigmoid(b.astype(mx.float32))
    g = -layer.decay_rate * mx.logaddexp(a.astype(mx.float32) + layer.dt_bias, 0.0)
    y, state = gated_delta(q, k, v.reshape(values), g, beta, state)
    z = z.reshape(values).astype(mx.float32)
    y = mx.fast.rms_norm(y, layer.norm, layer.eps) * z * mx.sigmoid(z)
    return y.reshape(batch, tokens, -1).astype(projected.dtype), conv, state


def l2_norm(x: mx.array) -> mx.array:
    """x [..., d] over its length; the epsilon is on the sum of squares, not on their mean."""
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + L2_EPS)
