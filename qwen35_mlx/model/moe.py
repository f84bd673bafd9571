"""The feed-forward part of a layer: a dense SwiGLU, or sparse experts with a shared expert."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from qwen35_mlx.kernels.experts import (
    TWO_DISPATCHES,
    ExpertWeights,
    route,
    route_and_run_experts,
    route_reference,
    run_experts,
)
from qwen35_mlx.kernels.matvec import swiglu
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import UNPACKED
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.memory import MAX_EXPERT_BLOCK_ROWS
from qwen35_mlx.model.weights import Weights

# From this many (token, expert) assignments on, sorting them by expert pays off.
SORT_FROM = 64
# For `KernelSelection.experts_prefill`, where `quantized.UNPACKED` means blocks that are multiplied
# by the unpacked stacks. As many rows as MLX's kernel computes at once are best: it differs between
# GPUs.
BLOCKS, LARGE_BLOCKS = "blocks", "blocks of 64"
BLOCK_ROWS = {BLOCKS: 32, LARGE_BLOCKS: MAX_EXPERT_BLOCK_ROWS, UNPACKED: 32}
# From this many assignments per expert on, blocks are worth their padding: here at most 3 rows are
# computed per assignment.
BLOCKS_FROM = 16


@dataclass(frozen=True, slots=True)
class ExpertBlocks:
    """(token, expert) assignments in blocks of rows, each block of one expert, experts ascending.

    Attributes:
        assignments: [blocks, rows], the assignment that each row computes; rows that pad their
            block repeat another assignment.
        experts: [blocks].
        inverse: [assignments], each assignment's row, counted over all blocks.
    """

    assignments: mx.array
    experts: mx.array
    inverse: mx.array

    @classmethod
    def by_expert(cls, experts: mx.array) -> "ExpertBlocks":
        """One block per assignment: experts [assignments]."""
        order = mx.argsort(experts)
        return cls(order[:, None], experts[order], inverse_of(order))

    @classmethod
    def in_blocks(cls, experts: mx.array, count: int, rows: int) -> "ExpertBlocks":
        """Blocks of `rows` rows: experts [assignments], each below `count`.

        The number of blocks is the most that `count` experts can need, so that it is known without
        evaluating `experts`.
        """
        order = mx.argsort(experts)
        ascending = experts[order]
        ends = mx.sum(ascending <= mx.arange(count)[:, None], axis=-1)
        starts = mx.concatenate([mx.zeros(1, ends.dtype), ends[:-1]])
        blocks = (ends - starts + rows - 1) // rows
        block_ends = mx.cumsum(blocks)
        block_starts = block_ends - blocks

        block = mx.arange((order.size + count * (rows - 1)) // rows)
        owner = mx.minimum(mx.sum(block_ends <= block[:, None], axis=-1), count - 1)
        row = (starts - block_starts * rows)[owner] + block * rows
        row = mx.minimum(row[:, None] + mx.arange(rows), ends[owner][:, None] - 1)
        inverse = (block_starts * rows - starts)[ascending] + mx.arange(order.size)
        return cls(order[row], owner, inverse[inverse_of(order)])


class MLP:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, weights: Weights):
        self.gate_up = FusedLinear(weights.linear("gate_proj"), weights.linear("up_proj"))
        self.down_proj = weights.linear("down_proj")

    def __call__(
        self, x: mx.array, norm: RMSNorm | None = None, residual: mx.array | None = None
    ) -> mx.array:
        """[residual +] the MLP of x, or of norm(x): x, residual [..., hidden]."""
        return self.down_proj(self.gate_up.glu(x, norm), residual=residual)


class SparseMoE:
    """The weighted sum of each token's top-k experts, plus the gated shared expert."""

    def __init__(self, config: ModelConfig, weights: Weights):
        self.selection = weights.selection
        self.top_k = config.num_experts_per_tok
        # The router's logits and the shared expert's gate, one small matrix.
        self.router = FusedLinear(weights.linear("gate"), weights.linear("shared_expert_gate"))
        stacks = weights.scope("switch_mlp")
        self.gate_up = FusedLinear(stacks.linear("gate_proj"), stacks.linear("up_proj"))
        self.down_proj = stacks.linear("down_proj")
        self.shared_expert = MLP(weights.scope("shared_expert"))
        matrices = (
            self.gate_up.single,
            self.down_proj,
            self.shared_expert.gate_up.single,
            self.shared_expert.down_proj,
        )
        # The kernels rotate no inputs.
        self.packed = ExpertWeights.from_matrices(
            *(m.weight if m and m.rotation is None else None for m in matrices), top_k=self.top_k
        )
        packings = [m.packing for m in matrices if m]
        # In words, for `KernelSelection.experts_decode`.
        self.packing = packings[0] if len(set(packings)) == 1 else " / ".join(packings)

    def __call__(self, x: mx.array, norm: RMSNorm, residual: mx.array | None) -> mx.array:
        """x, residual [B, T, hidden] -> [residual +] the experts' output for norm(x)."""
        few = x.size <= MAX_DECODE_TOKENS * x.shape[-1]
        variant = self.selection.experts_decode.get(self.packing, REFERENCE)
        plain = partial(self._reference, x, norm, residual)
        if not few or variant == REFERENCE or self.packed is None:
            return plain()
        kernel = partial(self._in_kernels, variant, self.packed, x, norm, residual)
        return self.selection.attempt("experts_decode", kernel, plain, self.packing)

    def _in_kernels(
        self,
        variant: str,
        packed: ExpertWeights,
        x: mx.array,
        norm: RMSNorm,
        residual: mx.array | None,
    ) -> mx.array:
        rows = x.flatten(0, -2)
        flat_residual = mx.zeros_like(rows) if residual is None else residual.flatten(0, -2)
        logits = self.router.joined(rows, norm)
        if variant == TWO_DISPATCHES:
            y = route_and_run_experts(rows, norm, logits, packed, flat_residual)
        else:
            y = run_experts(rows, norm, *route(logits, self.top_k), packed, flat_residual)
        return y.reshape(x.shape)

    def _reference(self, x: mx.array, norm: RMSNorm, residual: mx.array | None) -> mx.array:
        rows = norm(x.flatten(0, -2))
        logits = self.router.joined(rows)
        weights, experts = route_reference(logits, self.top_k)
        weights = weights.astype(x.dtype)
        routed = mx.sum(self._routed(rows, experts) * weights[:, :-1, None], axis=-2)
        shared = weights[:, -1:] * self.shared_expert(rows)
        y = (routed + shared).reshape(x.shape)
        return y if residual is None else residual + y

    def _routed(self, x: mx.array, experts: mx.array) -> mx.array:
        """x [N, hidden], experts [N, k] -> [N, k, hidden]."""
        if experts.size < SORT_FROM:
            gate, up = self.gate_up.gather(x[:, None, None], experts)
            return self.down_proj.gather(swiglu(gate, up), experts).squeeze(-2)
        flat, count = experts.flatten(), self.down_proj.arrays[0].shape[0]
        block_rows = BLOCK_ROWS.get(self.selection.experts_prefill)
        if block_rows and flat.size >= BLOCKS_FROM * count:
            blocks = ExpertBlocks.in_blocks(flat, count, block_rows)
        else:
            blocks = ExpertBlocks.by_expert(flat)
        tokens = rows_at(x, blocks.assignments // self.top_k)
        gate, up = self.gate_up.gather(tokens, blocks.experts, sorted_indices=True)
        y = self.down_proj.gather(swiglu(gate, up), blocks.experts, sorted_indices=True)
        return rows_at(y.flatten(0, 1), blocks.inverse).reshape(*experts.shape, -1)


def rows_at(x: mx.array, index: mx.array) -> mx.array:
    """x[index]: x [N, width], index [...] -> [..., width].

    MLX gathers value by value, so the rows are gathered as 64-bit words, which takes a third of the
    time.
    """
    if x.shape[-1] * x.itemsize % 8:
        return x[index]
    return x.view(mx.uint64)[index].view(x.dtype)


def inverse_of(order: mx.array) -> mx.array:
    """The inverse of a permutation: order [N] -> [N] uint32."""
    inverse = mx.zeros(order.size, mx.uint32)
    inverse[order] = mx.arange(order.size, dtype=mx.uint32)
    return inverse
