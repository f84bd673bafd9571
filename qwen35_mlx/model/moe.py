"""The feed-forward halves of a layer: dense SwiGLU, and sparse experts with a shared one."""

import mlx.core as mx

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.weights import Weights

# From this many (token, expert) pairs on, sorting them by expert pays for itself.
SORT_FROM = 64


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


class MLP:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, intermediate: int, weights: Weights):
        self.gate_up = FusedLinear(
            weights.linear("gate_proj", intermediate, hidden),
            weights.linear("up_proj", intermediate, hidden),
        )
        self.down_proj = weights.linear("down_proj", hidden, intermediate)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., hidden] -> [..., hidden]."""
        gate, up = self.gate_up(x)
        return self.down_proj(_silu(gate) * up)


class SparseMoE:
    """Each token through its top-k experts, weighted, and through the shared expert, gated."""

    def __init__(self, config: ModelConfig, weights: Weights):
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

    def __call__(self, x: mx.array) -> mx.array:
        """[B, T, hidden] -> [B, T, hidden]."""
        logits, shared_gate = self.router(x)
        scores, experts = route(logits, self.top_k)
        routed = self._experts(x, experts)
        routed = mx.sum(routed * scores[..., None].astype(routed.dtype), axis=-2)
        return routed + mx.sigmoid(shared_gate) * self.shared_expert(x)

    def _experts(self, x: mx.array, experts: mx.array) -> mx.array:
        """x [B, T, hidden], experts [B, T, k] -> [B, T, k, hidden]."""
        if experts.size < SORT_FROM:
            gate, up = self.gate_up.gather(x[:, :, None, None], experts)
            return self.down_proj.gather(_silu(gate) * up, experts).squeeze(-2)
        flat = experts.flatten()
        order = mx.argsort(flat)
        tokens = x.reshape(-1, 1, x.shape[-1])[order // self.top_k]
        flat = flat[order]
        gate, up = self.gate_up.gather(tokens, flat, sorted_indices=True)
        y = self.down_proj.gather(_silu(gate) * up, flat, sorted_indices=True)
        return y[mx.argsort(order)].reshape(*experts.shape, -1)


def route(logits: mx.array, top_k: int) -> tuple[mx.array, mx.array]:
    """Router logits [..., experts] -> weights [..., k] float32 that sum to 1, indices [..., k]."""
    probabilities = mx.softmax(logits.astype(mx.float32), axis=-1)
    experts = mx.argpartition(-probabilities, kth=top_k - 1, axis=-1)[..., :top_k]
    chosen = mx.take_along_axis(probabilities, experts, axis=-1)
    return chosen / mx.sum(chosen, axis=-1, keepdims=True), experts
