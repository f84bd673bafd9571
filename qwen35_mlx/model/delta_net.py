"""Gated DeltaNet: one projection in, everything per head, one projection out."""

import mlx.core as mx

from qwen35_mlx.kernels.delta_net import mix
from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.weights import Weights


class GatedDeltaNet:
    """One linear-attention mixer."""

    def __init__(self, config: ModelConfig, weights: Weights):
        self.selection = weights.selection
        hidden, heads = config.hidden_size, config.linear_num_value_heads
        self.in_proj = FusedLinear(
            weights.linear("in_proj_qkv", config.linear_conv_dim, hidden),
            weights.linear("in_proj_z", config.linear_value_dim, hidden),
            weights.linear("in_proj_b", heads, hidden),
            weights.linear("in_proj_a", heads, hidden),
        )
        self.out_proj = weights.linear("out_proj", hidden, config.linear_value_dim)

        def float32(name: str, *shape: int) -> mx.array:
            return weights.array(name, *shape, keep_dtype=True).astype(mx.float32)

        kernel = config.linear_conv_kernel_dim
        self.parameters = DeltaNetParameters(
            key_heads=config.linear_num_key_heads,
            value_heads=heads,
            key_head_dim=config.linear_key_head_dim,
            value_head_dim=config.linear_value_head_dim,
            taps=mx.contiguous(
                float32("conv1d.weight", config.linear_conv_dim, kernel, 1).squeeze(-1).T
            ),
            decay_rate=mx.exp(float32("A_log", heads)),
            dt_bias=float32("dt_bias", heads),
            norm=float32("norm.weight", config.linear_value_head_dim),
            eps=config.rms_norm_eps,
        )
        p = self.parameters
        mx.eval(p.taps, p.decay_rate, p.dt_bias, p.norm)

    def __call__(
        self,
        x: mx.array,
        conv: mx.array,
        recurrent: mx.array,
        valid: mx.array | None = None,
        norm: RMSNorm | None = None,
        residual: mx.array | None = None,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """x [B, T, hidden] and the two states of `DeltaState` -> y [B, T, hidden] and new states.

        Args:
            valid: [B, T] bool, False at padding on the left, which then leaves no trace; None for
                no padding.
            norm: of x, before all else.
            residual: [B, T, hidden], added to y.
        """
        y, conv, recurrent = mix(
            self.in_proj.joined(x, norm), conv, recurrent, self.parameters, self.selection
        )
        return self.out_proj(y, residual=residual), conv, recurrent
