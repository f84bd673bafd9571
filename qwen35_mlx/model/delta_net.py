"""The Gated DeltaNet mixer: input projections, convolution and delta rule, output projection."""

import mlx.core as mx

from qwen35_mlx.kernels.delta_net import mix
from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.weights import Weights


class GatedDeltaNet:
    """The linear-attention mixer of one layer."""

    def __init__(self, config: ModelConfig, weights: Weights):
        self.selection = weights.selection
        self.in_proj = FusedLinear(
            weights.linear("in_proj_qkv"),
            weights.linear("in_proj_z"),
            weights.linear("in_proj_b"),
            weights.linear("in_proj_a"),
        )
        self.out_proj = weights.linear("out_proj")

        def float32(name: str) -> mx.array:
            return weights.array(name).astype(mx.float32)

        self.parameters = DeltaNetParameters(
            key_heads=config.linear_num_key_heads,
            value_heads=config.linear_num_value_heads,
            key_head_dim=config.linear_key_head_dim,
            value_head_dim=config.linear_value_head_dim,
            taps=mx.contiguous(float32("conv1d.weight").squeeze(-1).T),
            decay_rate=mx.exp(float32("A_log")),
            dt_bias=float32("dt_bias"),
            norm=float32("norm.weight"),
            eps=config.rms_norm_eps,
        )
        p = self.parameters
        mx.eval(p.taps, p.decay_rate, p.dt_bias, p.norm)

    def __call__(
        self,
        x: mx.array,
        conv: mx.array,
        recurrent: mx.array,
        norm: RMSNorm | None = None,
        residual: mx.array | None = None,
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """The mixer's output, the new state, and what `replay` needs.

        Args:
            x: [B, T, hidden].
            conv, recurrent: as in `DeltaState`.
            norm: applied to x first.
            residual: [B, T, hidden], added to the output.

        Returns:
            y [B, T, hidden], the new conv, the new recurrent, and x behind the input projections,
            [B, T, width].
        """
        projected = self.in_proj.joined(x, norm)
        y, conv, recurrent = mix(projected, conv, recurrent, self.parameters, self.selection)
        return self.out_proj(y, residual=residual), conv, recurrent, projected

    def replay(
        self, projected: mx.array, conv: mx.array, recurrent: mx.array
    ) -> tuple[mx.array, mx.array]:
        """The state after the first tokens of a pass, from what they were behind `in_proj`.

        Args:
            projected: [B, T, width].
            conv, recurrent: the state before the pass.
        """
        _, conv, recurrent = mix(projected, conv, recurrent, self.parameters, self.selection)
        return conv, recurrent
