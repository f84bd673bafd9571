"""Gated DeltaNet: projections, a short causal convolution, the delta rule, a gated norm."""

import mlx.core as mx

from qwen35_mlx.kernels.gated_delta import gated_delta
from qwen35_mlx.model.cache import DeltaState
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.weights import Weights

L2_EPS = 1e-6


class GatedDeltaNet:
    """One linear-attention mixer: projection, everything per head, projection.

    Between the projections all is float32: gates, decay and state must be, and the rest costs
    nothing beside them.
    """

    def __init__(self, config: ModelConfig, weights: Weights):
        hidden = config.hidden_size
        self.key_heads, self.key_head_dim = config.linear_num_key_heads, config.linear_key_head_dim
        self.value_heads = config.linear_num_value_heads
        self.value_head_dim = config.linear_value_head_dim
        self.kernel = config.linear_conv_kernel_dim
        self.eps = config.rms_norm_eps
        self.in_proj = FusedLinear(
            weights.linear("in_proj_qkv", config.linear_conv_dim, hidden),
            weights.linear("in_proj_z", config.linear_value_dim, hidden),
            weights.linear("in_proj_b", self.value_heads, hidden),
            weights.linear("in_proj_a", self.value_heads, hidden),
        )
        self.out_proj = weights.linear("out_proj", hidden, config.linear_value_dim)

        def float32(name: str, *shape: int) -> mx.array:
            return weights.array(name, *shape, keep_dtype=True).astype(mx.float32)

        conv = float32("conv1d.weight", config.linear_conv_dim, self.kernel, 1)
        self.conv_taps = mx.contiguous(conv.squeeze(-1).T)
        self.decay_rate = mx.exp(float32("A_log", self.value_heads))
        self.dt_bias = float32("dt_bias", self.value_heads)
        self.norm = float32("norm.weight", self.value_head_dim)
        mx.eval(self.conv_taps, self.decay_rate, self.dt_bias, self.norm)

    def __call__(self, x: mx.array, state: DeltaState, valid: mx.array | None = None) -> mx.array:
        """x [B, T, hidden] -> [B, T, hidden]; replaces the arrays in `state`.

        Args:
            valid: [B, T] bool, False at padding on the left, which then leaves no trace; None for
                no padding.
        """
        batch, tokens, _ = x.shape
        qkv, z, b, a = self.in_proj(x)
        if valid is not None:
            # Keys and values of nothing: an empty state stays empty, whatever the gates say.
            qkv = mx.where(valid[..., None], qkv, 0.0)
        q, k, v = self._convolve(qkv, state)
        beta = mx.sigmoid(b.astype(mx.float32))
        g = -self.decay_rate * _softplus(a.astype(mx.float32) + self.dt_bias)
        if state.recurrent is None:
            state.recurrent = mx.zeros(
                (batch, self.value_heads, self.value_head_dim, self.key_head_dim)
            )
        q = l2_norm(q) * self.key_head_dim**-0.5
        y, state.recurrent = gated_delta(q, l2_norm(k), v, g, beta, state.recurrent)
        z = z.reshape(y.shape).astype(mx.float32)
        y = mx.fast.rms_norm(y, self.norm, self.eps) * z * mx.sigmoid(z)
        return self.out_proj(y.reshape(batch, tokens, -1).astype(x.dtype))

    def _convolve(self, qkv: mx.array, state: DeltaState) -> tuple[mx.array, mx.array, mx.array]:
        """Depthwise causal convolution and SiLU over q, k and v jointly.

        qkv [B, T, channels] -> q, k [B, T, nk, dk] and v [B, T, nv, dv], float32.
        """
        batch, tokens, channels = qkv.shape
        if state.conv is None:
            state.conv = mx.zeros((batch, self.kernel - 1, channels), qkv.dtype)
        window = mx.concatenate([state.conv, qkv], axis=1)
        # A copy, or the state would keep the whole prompt's projections alive.
        state.conv = mx.contiguous(window[:, tokens:])
        window = window.astype(mx.float32)
        mixed = window[:, :tokens] * self.conv_taps[0]
        for i in range(1, self.kernel):
            mixed = mixed + window[:, i : i + tokens] * self.conv_taps[i]
        mixed = mixed * mx.sigmoid(mixed)
        key_dim = self.key_heads * self.key_head_dim
        q, k, v = mx.split(mixed, [key_dim, 2 * key_dim], axis=-1)
        q, k = (x.reshape(batch, tokens, self.key_heads, self.key_head_dim) for x in (q, k))
        return q, k, v.reshape(batch, tokens, self.value_heads, self.value_head_dim)


def l2_norm(x: mx.array) -> mx.array:
    """x [..., d] over its length; the epsilon is on the sum of squares, not on their mean."""
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + L2_EPS)


def _softplus(x: mx.array) -> mx.array:
    return mx.logaddexp(x, 0.0)
