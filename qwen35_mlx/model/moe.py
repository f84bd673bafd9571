"""The feed-forward halves of a layer: dense SwiGLU, and sparse experts with a shared one."""

from dataclasses import dataclass

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
from qwen35_mlx.kernels.selection import REFERENCE
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.memory import EXPERT_BLOCK_ROWS
from qwen35_mlx.model.weights import Weights

# From this many (token, expert) pairs on, sorting them by expert pays for itself.
SORT_FROM = 64
# For `KernelSelection.experts_prefill`, where `quantized.UNPACKED` means blocks by the unpacked
# stacks.
BLOCKS = "blocks"
# From how many pairs per expert on blocks are worth their padding: at most 3 rows for a pair here.
BLOCKS_FROM = 16


@dataclass(frozen=True, slots=True)
class ExpertBlocks:
    """(token, expert) pairs in blocks of rows, each block of one expert, by ascending expert.

    Attributes:
        pairs: [blocks, rows] indices of pairs; a row that pads its block repeats any pair.
        experts: [blocks].
        places: [pairs], each pair's row among all.
    """

    pairs: mx.array
    experts: mx.array
    places: mx.array

    @classmethod
    def by_expert(cls, experts: mx.array) -> "ExpertBlocks":
        """A block for every pair: experts [pairs]."""
        order = mx.argsort(experts)
        return cls(order[:, None], experts[order], mx.argsort(order))

    @classmethod
    def in_blocks(cls, experts: mx.array, count: int, rows: int) -> "ExpertBlocks":
        """As many blocks as `count` experts could need, so that nothing waits for how many do."""
        order = mx.argsort(experts)
        ascending = experts[order]
        ends = mx.sum(ascending <= mx.arange(count)[:, None], axis=-1)
        starts = mx.concatenate([mx.zeros(1, ends.dtype), ends[:-1]])
        blocks = (ends - starts + rows - 1) // rows
        after = mx.cumsum(blocks)
        first = after - blocks

        block = mx.arange((order.size + count * (rows - 1)) // rows)
        owner = mx.minimum(mx.sum(after <= block[:, None], axis=-1), count - 1)
        row = (starts - first * rows)[owner] + block * rows
        row = mx.minimum(row[:, None] + mx.arange(rows), ends[owner][:, None] - 1)
        places = (first * rows - starts)[ascending] + mx.arange(order.size)
        return cls(order[row], owner, places[mx.argsort(order)])


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
        self.selection = weights.selection
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
        few = rows.shape[0] <= STEP_TOKENS and self.selection.experts_decode == KERNEL
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
        flat, count = experts.flatten(), self.down_proj.arrays[0].shape[0]
        if self.selection.experts_prefill != REFERENCE and flat.size >= BLOCKS_FROM * count:
            arranged = ExpertBlocks.in_blocks(flat, count, EXPERT_BLOCK_ROWS)
        else:
            arranged = ExpertBlocks.by_expert(flat)
        tokens = x[arranged.pairs // self.top_k]
        gate, up = self.gate_up.gather(tokens, arranged.experts, sorted_indices=True)
        y = self.down_proj.gather(swiglu(gate, up), arranged.experts, sorted_indices=True)
        return y.flatten(0, 1)[arranged.places].reshape(*experts.shape, -1)
