"""Gated full attention: grouped queries, normalised q and k, partial RoPE, a sigmoid gate."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.cache import KVCache
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.weights import Weights

# Where no fused kernel exists (CPU; head_dim 256 prefill on the GPU) the scores are materialised
# in float32. Queries are then taken in blocks, so that this is the most they occupy.
SCORE_BUDGET = 1 << 30

Rope = Callable[[mx.array, int | mx.array], mx.array]


class Attention:
    """One full-attention mixer.

    Args:
        rope: rotates [B, heads, T, head_dim] from a position on.
    """

    def __init__(self, config: ModelConfig, weights: Weights, rope: Rope):
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.eps = config.rms_norm_eps
        self.rope = rope
        hidden, queries = config.hidden_size, self.heads * self.head_dim
        self.qkv_proj = FusedLinear(
            weights.linear("q_proj", 2 * queries, hidden),
            weights.linear("k_proj", self.kv_heads * self.head_dim, hidden),
            weights.linear("v_proj", self.kv_heads * self.head_dim, hidden),
        )
        self.o_proj = weights.linear("o_proj", hidden, queries)
        self.q_norm = weights.array("q_norm.weight", self.head_dim)
        self.k_norm = weights.array("k_norm.weight", self.head_dim)

    def project(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, ...]:
        """x [B, T, hidden] at positions `offset` and on, a number or int32 [].

        Returns:
            q [B, heads, T, head_dim]; k, v [B, kv_heads, T, head_dim]; gate, in q's sizes but
            [B, T, heads, head_dim].
        """
        batch, tokens, _ = x.shape
        q, k, v = self.qkv_proj(x)
        # Per head, the projection holds the query, then the gate.
        q, gate = mx.split(q.reshape(batch, tokens, self.heads, -1), 2, axis=-1)
        k = k.reshape(batch, tokens, self.kv_heads, -1)
        v = v.reshape(batch, tokens, self.kv_heads, -1).swapaxes(1, 2)
        q = mx.fast.rms_norm(q, self.q_norm, self.eps).astype(x.dtype).swapaxes(1, 2)
        k = mx.fast.rms_norm(k, self.k_norm, self.eps).astype(x.dtype).swapaxes(1, 2)
        return self.rope(q, offset), self.rope(k, offset), v, gate

    def attend(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        cache: KVCache,
        left_padding: mx.array | None = None,
    ) -> mx.array:
        """Append k and v to the cache and attend to all of it -> [B, heads, T, head_dim]."""
        k, v = cache.update(k, v)
        return _attend(q, k, v, self.head_dim**-0.5, left_padding)

    def output(self, attended: mx.array, gate: mx.array) -> mx.array:
        """[B, heads, T, head_dim] and the gate -> [B, T, hidden]."""
        out = attended.swapaxes(1, 2) * mx.sigmoid(gate)
        return self.o_proj(out.flatten(2))


def _attend(
    q: mx.array, k: mx.array, v: mx.array, scale: float, left_padding: mx.array | None
) -> mx.array:
    """Causal attention of the last T of L positions, a block of queries at a time.

    q [B, heads, T, d]; k, v [B, kv_heads, L, d]; left_padding [B] -> [B, heads, T, d].
    """
    batch, heads, tokens, _ = q.shape
    length = k.shape[2]
    block = max(1, SCORE_BUDGET // (4 * batch * heads * length))
    outputs = []
    for start in range(0, tokens, block):
        stop = min(start + block, tokens)
        seen = length - tokens + stop
        outputs.append(
            mx.fast.scaled_dot_product_attention(
                q[:, :, start:stop],
                k[:, :, :seen],
                v[:, :, :seen],
                scale=scale,
                mask=_mask(stop - start, seen, left_padding),
            )
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def _mask(tokens: int, length: int, left_padding: mx.array | None) -> str | mx.array | None:
    if left_padding is None:
        return None if tokens == 1 else "causal"
    keys = mx.arange(length)
    queries = mx.arange(length - tokens, length)[:, None]
    visible = (keys <= queries) & (keys >= left_padding[:, None, None, None])
    # A padding position sees itself: a row without any key would be NaN.
    return visible | (keys == queries)


def make_rope(config: ModelConfig) -> Rope:
    """Rotary embedding of the first `config.rotary_dim` dimensions of each head."""
    dims = config.rotary_dim
    if config.rope.scaling is not None:
        # mlx-lm brings transformers along, over a second of import: only who scales pays for it.
        from mlx_lm.models.rope_utils import initialize_rope

        scaled: Any = initialize_rope(
            dims,
            base=config.rope.theta,
            traditional=False,
            scaling_config=dict(config.rope.scaling),
            max_position_embeddings=config.max_position_embeddings,
        )
        return scaled
    # Wavelengths in float64: what the kernel would derive from theta in float32 is off by
    # 1e-7, which position 262,144 turns into a visible angle.
    wavelengths = mx.array((config.rope.theta ** (np.arange(0, dims, 2) / dims)).astype(np.float32))

    def rope(x: mx.array, offset: int | mx.array) -> mx.array:
        return mx.fast.rope(
            x, dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=wavelengths
        )

    return rope
