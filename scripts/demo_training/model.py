"""The complete network: embedding, blocks, head and the multi-token-prediction layer."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from scripts.demo_training.network import DecodeCache, DecoderBlock, Norm, Positions, Projection
from scripts.demo_training.shape import Shape


class Trunk(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=0.05)
        self.layers = nn.ModuleList(
            DecoderBlock(shape, shape.is_full(i)) for i in range(shape.layers)
        )
        self.norm = Norm(shape.hidden, shape)


class MTP(nn.Module):
    """Predicts token t+2 from the final hidden state at t and the embedding of token t+1."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.pre_fc_norm_embedding = Norm(shape.hidden, shape)
        self.pre_fc_norm_hidden = Norm(shape.hidden, shape)
        self.fc = Projection(2 * shape.hidden, shape.hidden)
        self.layers = nn.ModuleList([DecoderBlock(shape, full_attention=True)])
        self.norm = Norm(shape.hidden, shape)


class DemoNetwork(nn.Module):
    """Qwen3.5-MoE with tied embeddings and an MTP head."""

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.model = Trunk(shape)
        self.mtp = MTP(shape)
        for block in [*self.model.layers, *self.mtp.layers]:
            block.dtype = dtype

    def positions(self, length: int, past: int, segments: torch.Tensor | None) -> Positions:
        """RoPE tables and masks for `length` tokens after `past`; segments [B, T] or None."""
        shape, device = self.shape, self.model.embed_tokens.weight.device
        width = int(shape.head_dim * shape.rotary)
        rates = shape.rope_theta ** -(torch.arange(0, width, 2, device=device) / width)
        angles = torch.arange(past, past + length, device=device)[:, None] * rates
        cos, sin = angles.cos(), angles.sin()
        if segments is None:
            return Positions(cos, sin, None, None, None)
        mask = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]
        same = []
        for lag in (1, 2, 3):
            shifted = F.pad(segments, (lag, 0), value=-1)[:, :length]
            same.append((shifted == segments)[..., None].to(self.dtype))
        return Positions(cos, sin, mask, same, same[0] == 0)

    def hidden(
        self,
        ids: torch.Tensor,
        segments: torch.Tensor | None = None,
        cache: DecodeCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ids [B, T] -> hidden states after the final norm [B, T, H], mean balance loss."""
        positions = self.positions(ids.shape[1], cache.length if cache else 0, segments)
        x = self.model.embed_tokens(ids) * self.shape.embed_scale
        total = x.new_zeros(())
        for i, block in enumerate(self.model.layers):
            x, balance, kept = block(x, positions, cache.layers.get(i) if cache else None)
            total = total + balance
            if cache is not None:
                cache.layers[i] = kept
        if cache is not None:
            cache.length += ids.shape[1]
        return self.model.norm(x), total / self.shape.layers

    def hidden_mtp(
        self, h: torch.Tensor, following: torch.Tensor, segments: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """h [B, T, H] at t and the ids [B, T] at t+1 -> states that predict t+2."""
        positions = self.positions(h.shape[1], 0, segments)
        e = self.mtp.pre_fc_norm_embedding(self.model.embed_tokens(following))
        x = torch.cat([e, self.mtp.pre_fc_norm_hidden(h)], -1).to(self.dtype)
        x, balance, _ = self.mtp.layers[0](self.mtp.fc(x).float(), positions, None)
        return self.mtp.norm(x), balance

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """h [..., H] -> float32 logits [..., V] through the tied embedding."""
        weight = self.model.embed_tokens.weight
        return F.linear(h.to(self.dtype), weight.to(self.dtype)).float()

    @torch.no_grad()
    def with_embed_scale(self, scale: float) -> "DemoNetwork":
        """The same function with another `embed_scale`: 1 for an export.

        Blocks add outputs of about 1 to the residual, which would hide a tied embedding small
        enough for reasonable logits. Training therefore scales it at the input; an export has
        larger embeddings and smaller last norms instead.
        """
        ratio = self.shape.embed_scale / scale
        made = DemoNetwork(replace(self.shape, embed_scale=scale), self.dtype)
        made.load_state_dict(self.state_dict())
        made.model.embed_tokens.weight *= ratio
        for norm in (made.model.norm, made.mtp.norm):
            norm.weight.copy_((1 + norm.weight) / ratio - 1)
        return made.eval()

    def count(self) -> tuple[int, int]:
        """All parameters, and those active per token (selected experts only, without MTP)."""
        total = sum(p.numel() for p in self.parameters())
        s = self.shape
        idle = s.layers * (s.experts - s.top_k) * 3 * s.hidden * s.expert_size
        return total, total - idle - sum(p.numel() for p in self.mtp.parameters())
