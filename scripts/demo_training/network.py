"""A compact Qwen3.5-MoE in PyTorch, text only.

Parameters have the names of the published checkpoints. Several documents may be packed into one
row: `segments` numbers them, and attention, convolution and recurrent state do not cross from one
to the next.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from scripts.demo_training import delta_rule
from scripts.demo_training.shape import Shape


@dataclass(slots=True)
class DecodeCache:
    """Cache for decoding: per layer, (convolution inputs, state) or (keys, values)."""

    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    length: int = 0


@dataclass(frozen=True, slots=True)
class Positions:
    """RoPE tables [T, R], attention mask and document boundaries of a call."""

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor | None  # [B, 1, T, T], True where attention is allowed; None: causal
    same: list[torch.Tensor] | None  # per lag 1..3, [B, T, 1]: still in the same document
    starts: torch.Tensor | None  # [B, T, 1], True at the first token of a document


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Zero-centred weight: x / rms(x) * (1 + w), in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight)


def project(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [..., I] by weight [O, I] in x's dtype."""
    return F.linear(x, weight.to(x.dtype))


class Norm(nn.Module):
    def __init__(self, size: int, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = shape.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class Projection(nn.Module):
    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain * inputs**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return project(x, self.weight)


class DeltaNet(nn.Module):
    """Gated DeltaNet: short convolution, gated delta rule, gated norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys, values = shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim
        self.in_proj_qkv = Projection(shape.hidden, 2 * keys + values)
        self.in_proj_z = Projection(shape.hidden, values)
        self.in_proj_b = Projection(shape.hidden, shape.value_heads, 0.5)
        self.in_proj_a = Projection(shape.hidden, shape.value_heads, 0.5)
        self.conv1d = nn.Module()
        self.conv1d.weight = nn.Parameter(torch.randn(2 * keys + values, 1, 4) * 0.4)
        # Half-lives from a few to some thousand tokens.
        self.A_log = nn.Parameter(torch.linspace(-1.5, 1.5, shape.value_heads))
        step = torch.exp(torch.empty(shape.value_heads).uniform_(-6.5, -3.5))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.norm = nn.Module()
        self.norm.weight = nn.Parameter(torch.ones(shape.value_dim))
        self.out_proj = Projection(values, shape.hidden, 0.3)

    def forward(
        self,
        x: torch.Tensor,
        positions: Positions,
        cached: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        shape, (batch, length, _) = self.shape, x.shape
        columns = self.in_proj_qkv(x)
        before = columns.new_zeros(batch, 3, columns.shape[-1]) if cached is None else cached[0]
        columns = torch.cat([before, columns], 1)
        taps = self.conv1d.weight[:, 0].to(x.dtype)  # [C, 4], the last one for "now"
        mixed = columns[:, 3:] * taps[:, 3]
        for lag in (1, 2, 3):
            term = columns[:, 3 - lag : 3 - lag + length] * taps[:, 3 - lag]
            mixed = mixed + (term if positions.same is None else term * positions.same[lag - 1])
        mixed = F.silu(mixed).float()
        keys = shape.key_heads * shape.key_dim
        q, k, v = mixed.split([keys, keys, shape.value_heads * shape.value_dim], -1)
        q = delta_rule.l2norm(q.unflatten(-1, (shape.key_heads, shape.key_dim)))
        k = delta_rule.l2norm(k.unflatten(-1, (shape.key_heads, shape.key_dim)))
        v = v.unflatten(-1, (shape.value_heads, shape.value_dim))
        q = q * shape.key_dim**-0.5
        beta = torch.sigmoid(self.in_proj_b(x).float())
        g = -self.A_log.float().exp() * F.softplus(self.in_proj_a(x).float() + self.dt_bias)
        if positions.starts is not None:
            g = g.masked_fill(positions.starts, -40.0)  # exp(-40) clears the state
        if cached is not None and length == 1:
            out, state = delta_rule.step(q, k, v, g, beta, cached[1])
        else:
            out, state = delta_rule.chunked(q, k, v, g, beta, cached and cached[1])
        z = self.in_proj_z(x).float().unflatten(-1, (shape.value_heads, shape.value_dim))
        out = out * torch.rsqrt(out.square().mean(-1, keepdim=True) + shape.eps)
        out = out * self.norm.weight * F.silu(z)
        return self.out_proj(out.flatten(-2).to(x.dtype)), (columns[:, -3:], state)


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention with q/k norm, partial RoPE and a sigmoid output gate."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = Projection(shape.hidden, shape.heads * shape.head_dim * 2)
        self.k_proj = Projection(shape.hidden, shape.kv_heads * shape.head_dim)
        self.v_proj = Projection(shape.hidden, shape.kv_heads * shape.head_dim)
        self.o_proj = Projection(shape.heads * shape.head_dim, shape.hidden, 0.3)
        self.q_norm = Norm(shape.head_dim, shape)
        self.k_norm = Norm(shape.head_dim, shape)

    def rotate(self, x: torch.Tensor, positions: Positions) -> torch.Tensor:
        """Rotate the first R dimensions of x [B, T, H, D]."""
        half = positions.cos.shape[-1]
        a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
        cos, sin = positions.cos[:, None], positions.sin[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def forward(
        self,
        x: torch.Tensor,
        positions: Positions,
        cached: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        shape = self.shape
        q, gate = self.q_proj(x).unflatten(-1, (shape.heads, -1)).chunk(2, -1)
        k = self.k_proj(x).unflatten(-1, (shape.kv_heads, -1))
        v = self.v_proj(x).unflatten(-1, (shape.kv_heads, -1)).transpose(1, 2)
        q = self.rotate(self.q_norm(q), positions).to(x.dtype).transpose(1, 2)
        k = self.rotate(self.k_norm(k), positions).to(x.dtype).transpose(1, 2)
        mask = positions.mask
        if cached is not None:
            past = cached[0].shape[2]
            k, v = torch.cat([cached[0], k], 2), torch.cat([cached[1], v], 2)
            if mask is None and q.shape[2] > 1:
                mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device)
                mask = mask.tril(past)
        kept = (k, v)
        repeat = shape.heads // shape.kv_heads
        k, v = (y.repeat_interleave(repeat, dim=1) for y in (k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1
        )
        out = out.transpose(1, 2) * torch.sigmoid(gate)
        return self.o_proj(out.flatten(-2)), kept


class SwiGLU(nn.Module):
    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.gate_proj = Projection(hidden, size)
        self.up_proj = Projection(hidden, size)
        self.down_proj = Projection(size, hidden, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """All experts in two stacks, with tokens sorted by expert and one grouped product each."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        e, i, h = shape.experts, shape.expert_size, shape.hidden
        self.gate_up_proj = nn.Parameter(torch.randn(e, 2 * i, h) * h**-0.5)
        self.down_proj = nn.Parameter(torch.randn(e, h, i) * 0.3 * i**-0.5)

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x [N, H]; chosen, weights [N, K] -> [N, H]."""
        top_k, flat = chosen.shape[1], chosen.reshape(-1)
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=self.gate_up_proj.shape[0])
        rows, share = order // top_k, weights.reshape(-1)[order]
        group = GROUPS[x.device.type]
        if x.shape[0] > group:
            rows, share, counts = pad_groups(rows, share, counts, group)
        y = x[rows]
        if x.dtype == torch.bfloat16:
            ends = counts.cumsum(0).int()
            y = F.grouped_mm(y, self.gate_up_proj.to(x.dtype).mT, offs=ends)
            gate, up = y.chunk(2, -1)
            y = F.grouped_mm(F.silu(gate) * up, self.down_proj.to(x.dtype).mT, offs=ends)
        else:
            parts = []
            for expert, part in enumerate(y.split(counts.tolist())):
                gate, up = F.linear(part, self.gate_up_proj[expert]).chunk(2, -1)
                parts.append(F.linear(F.silu(gate) * up, self.down_proj[expert]))
            y = torch.cat(parts)
        y = y.float() * share[:, None]
        return torch.zeros_like(x, dtype=torch.float32).index_add(0, rows, y)


# Group sizes are padded to a multiple: on a CPU, matrix products are compiled per size, so few
# distinct sizes are much faster; on CUDA, grouped products require aligned groups.
GROUPS = {"cpu": 128, "cuda": 16}


def pad_groups(
    rows: torch.Tensor, share: torch.Tensor, counts: torch.Tensor, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad the rows of every expert to a multiple of `group` with rows of weight 0."""
    sizes = (counts + group - 1) // group * group
    shift = (sizes.cumsum(0) - sizes) - (counts.cumsum(0) - counts)
    at = torch.arange(rows.shape[0], device=rows.device) + shift.repeat_interleave(counts)
    padded = rows.new_zeros(int(sizes.sum())).index_copy(0, at, rows)
    weights = share.new_zeros(padded.shape[0]).index_copy(0, at, share)
    return padded, weights, sizes


class MoE(nn.Module):
    """Softmax router over all experts, top-k renormalised, plus a gated shared expert."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.gate = Projection(shape.hidden, shape.experts)
        self.experts = Experts(shape)
        self.shared_expert = SwiGLU(shape.hidden, shape.shared_size)
        self.shared_expert_gate = Projection(shape.hidden, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, T, H] -> the same shape, and the load-balancing loss (1 when balanced)."""
        flat = x.flatten(0, 1)
        probs = self.gate(flat).float().softmax(-1)
        weights, chosen = probs.topk(self.shape.top_k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = self.experts(flat, chosen, weights)
        shared = self.shared_expert(flat).float()
        out = out + torch.sigmoid(self.shared_expert_gate(flat).float()) * shared
        load = torch.bincount(chosen.reshape(-1), minlength=self.shape.experts).float()
        balance = (load / load.sum() * probs.mean(0)).sum() * self.shape.experts
        return out.view(x.shape), balance


class DecoderBlock(nn.Module):
    """x += mixer(norm(x)); x += moe(norm(x))."""

    def __init__(self, shape: Shape, full_attention: bool) -> None:
        super().__init__()
        self.dtype = torch.float32
        if full_attention:
            self.self_attn = GroupedQueryAttention(shape)
        else:
            self.linear_attn = DeltaNet(shape)
        self.full_attention = full_attention
        self.mlp = MoE(shape)
        self.input_layernorm = Norm(shape.hidden, shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape)

    def forward(
        self,
        x: torch.Tensor,
        positions: Positions,
        cached: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        mixer = self.self_attn if self.full_attention else self.linear_attn
        y, kept = mixer(self.input_layernorm(x).to(self.dtype), positions, cached)
        x = x + y
        y, balance = self.mlp(self.post_attention_layernorm(x).to(self.dtype))
        return x + y, balance, kept
