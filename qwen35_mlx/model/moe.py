"""The feed-forward halves of a layer: dense SwiGLU, and sparse experts with a shared one."""

import mlx.core as mx

from qwen35_mlx.kernels.experts import (
    KERNEL,
    STEP_TOKENS,
    ExpertWeights,
    route,
    route_reference,
    run_experts,
)
from qwen35_mlx.kernels.matvec import swiglu
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.weights import Weights

# From this many (token, expert) pairs on, sorting them by expert pays for itself.
SORT_FROM = 64


class MLP:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, intermediate: int, weights: Weights):
        self.gate_up = FusedLinear(
            weights.linear("gate_proj", intermediate, hidden),
            weights.linear("up_proj", intermediate, hidden),
        )
        self.down_proj = weights.linear("down_proj", hidden, intermediate)

    def __call__(
        self, x: mx.array, norm: RMSNorm | None = None, residual: mx.array | None = None
    ) -> mx.array:
        """[residual +] the layer of x, or of norm(x): x, residual [..., hidden]."""
        return self.down_proj(self.gate_up.glu(x, norm), residual=residual)


class SparseMoE:
    """Each token through its top-k experts, weighted, and through the shared expert, gated."""

    def __init__(self, config: ModelConfig, weights: Weights):
        self.choices = weights.choices
        hidden, experts = config.hidden_size, config.num_experts
        intermediate = config.moe_intermediate_size
        self.top_k = config.num_experts_per_tok
        # The router's logits and the shared expert's gate, one small matrix.
        self.router = FusedLinear(
            weights.linear("gate", experts, hidden),
            weights.linear("shared_expert_gate", 1, hidden),
        )
        stacks = weights.scope("switch_mlp")
        self.gate_up = FusedLinear(
            stacks.linear("gate_proj", experts, intermediate, hidden),
            stacks.linear("up_proj", experts, intermediate, hidden),
        )
        self.down_proj = stacks.linear("down_proj", experts, hidden, intermediate)
        self.shared_expert = MLP(
            hidden, config.shared_expert_intermediate_size, weights.scope("shared_expert")
        )
        matrices = (
            self.gate_up.single,
            self.down_proj,
            self.shared_expert.gate_up.single,
            self.shared_expert.down_proj,
        )
        self.packed = ExpertWeights.of(*(m and m.weight for m in matrices), top_k=self.top_k)

    def __call__(self, x: mx.array, norm: RMSNorm, residual: mx.array) -> mx.array:
        """x, residual [B, T, hidden] -> residual + the block of norm(x)."""
        rows = x.flatten(0, -2)
        few = rows.shape[0] <= STEP_TOKENS and self.choices.experts_step == KERNEL
        if few and self.packed is not None and norm.weight.dtype == x.dtype:
            weights, experts = route(self.router.joined(rows, norm), self.top_k)
            onto = residual.flatten(0, -2)
            return run_experts(rows, norm, weights, experts, self.packed, onto).reshape(x.shape)
        rows = norm(rows)
        logits = self.router.joined(rows)
        weights, experts = route_reference(logits, self.top_k)
        weights = weights.astype(x.dtype)
        routed = mx.sum(self._routed(rows, experts) * weights[:, :-1, None], axis=-2)
        shared = weights[:, -1:] * self.shared_expert(rows)
        return residual + (routed + shared).reshape(x.shape)

    def _routed(self, x: mx.array, experts: mx.array) -> mx.array:
        """x [N, hidden], experts [N, k] -> [N, k, hidden]."""
        if experts.size < SORT_FROM:
            gate, up = self.gate_up.gather(x[:, None, None], experts)
            return self.down_proj.gather(swiglu(gate, up), experts).squeeze(-2)
        flat = experts.flatten()
        order = mx.argsort(flat)
        flat = flat[order]
        tokens = x[:, None][order // self.top_k]
        gate, up = self.gate_up.gather(tokens, flat, sorted_indices=True)
        y = self.down_proj.gather(swiglu(gate, up), flat, sorted_indices=True)
        return y[mx.argsort(order)].reshape(*experts.shape, -1)
