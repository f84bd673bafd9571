"""Gated full attention: grouped queries, normalised q and k, partial RoPE, a sigmoid gate."""

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels import decode_attention as decode_attention
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.qk_norm_rope import (
    AttentionParameters,
    Rope,
    parts,
    qk_norm_rope,
)
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.cache import KVCache, Rows
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.memory import KV_GROUP, SCORE_BUDGET
from qwen35_mlx.model.weights import Weights

# For `KernelSelection.prefill_attention`: MLX's fused kernel also where MLX would not take it by
# itself, as
# for many queries of head_dim 256 on most GPUs. It needs no blocks.
FUSED = "fused"
# MLX takes its kernel for single queries up to so many by itself.
FEW_QUERIES = 8


class Attention:
    """One full-attention mixer."""

    def __init__(self, config: ModelConfig, weights: Weights, rope: Rope):
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.selection = weights.selection
        hidden, queries = config.hidden_size, self.heads * self.head_dim
        self.qkv_proj = FusedLinear(
            weights.linear("q_proj", 2 * queries, hidden),
            weights.linear("k_proj", self.kv_heads * self.head_dim, hidden),
            weights.linear("v_proj", self.kv_heads * self.head_dim, hidden),
        )
        self.o_proj = weights.linear("o_proj", hidden, queries)
        self.parameters = AttentionParameters(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            q_norm=weights.array("q_norm.weight", self.head_dim),
            k_norm=weights.array("k_norm.weight", self.head_dim),
            eps=config.rms_norm_eps,
            rope=rope,
        )

    def project(
        self, x: mx.array, offset: int | mx.array, norm: RMSNorm | None = None
    ) -> tuple[mx.array, ...]:
        """x [B, T, hidden], normed first, at positions `offset` and on, a number or int32 [].

        Returns:
            q [B, heads, T, head_dim]; k, v [B, kv_heads, T, head_dim]; gate, in q's sizes but
            [B, T, heads, head_dim].
        """
        projected = self.qkv_proj.joined(x, norm)
        _, gate, _, v = parts(projected, self.parameters)
        q, k = qk_norm_rope(projected, offset, self.parameters, self.selection)
        return q, k, v.swapaxes(1, 2), gate

    def attend(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        cache: KVCache,
        left_padding: mx.array | None = None,
    ) -> mx.array:
        """Append k and v to the cache and attend to all of it -> [B, heads, T, head_dim]."""
        rows = cache.update(k, v)
        scale = self.head_dim**-0.5
        if cache.bits is None:
            return attend(q, rows[0], rows[1], scale, left_padding, self.selection)
        if q.shape[2] == 1 and left_padding is None:
            return _attend_quantized(q, rows, cache.bits, scale)
        k, v = (_dequantized(part, cache.bits, q.dtype) for part in (rows[:3], rows[3:]))
        return attend(q, k, v, scale, left_padding, self.selection)

    def attend_gated(
        self, q: mx.array, k: mx.array, v: mx.array, gate: mx.array, cache: KVCache
    ) -> mx.array:
        """`attend` and its gate in the kernel for one token -> [B, 1, heads head_dim].

        Where `gates_in_kernel`.
        """
        rows, late = cache.append(k, v)
        return decode_attention.kernel(q, rows, late, gate, self.head_dim**-0.5)

    def gates_in_kernel(
        self, q: mx.array, k: mx.array, cache: KVCache, left_padding: mx.array | None
    ) -> bool:
        """Whether the kernel for one token is chosen, and can do it."""
        chosen = self.selection.decode_attention == decode_attention.KERNEL
        plain = cache.bits is None and left_padding is None and cache.offset > 0
        return chosen and plain and decode_attention.fits(q, k)

    def output(
        self, attended: mx.array, gate: mx.array, residual: mx.array | None = None
    ) -> mx.array:
        """[B, heads, T, head_dim] and the gate -> [B, T, hidden], onto the residual."""
        return self.o_proj(decode_attention.gated(attended, gate), residual=residual)


def attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    scale: float,
    left_padding: mx.array | None,
    selection: KernelSelection,
) -> mx.array:
    """Causal attention of the last T of L positions, in the form chosen for so many.

    q [B, heads, T, d]; k, v [B, kv_heads, L, d]; left_padding [B] -> [B, heads, T, d].
    """
    if selection.prefill_attention == FUSED and q.shape[2] > FEW_QUERIES:
        return fused(q, k, v, scale, left_padding)
    return blocks(q, k, v, scale, left_padding)


def blocks(
    q: mx.array, k: mx.array, v: mx.array, scale: float, left_padding: mx.array | None
) -> mx.array:
    """`attend`, a block of queries at a time, as MLX does it by itself."""
    batch, heads, tokens, _ = q.shape
    length = k.shape[2]
    block = max(1, SCORE_BUDGET // (4 * batch * heads * length))
    outputs = []
    for start in range(0, tokens, block):
        stop = min(start + block, tokens)
        seen = length - tokens + stop
        out = mx.fast.scaled_dot_product_attention(
            q[:, :, start:stop],
            k[:, :, :seen],
            v[:, :, :seen],
            scale=scale,
            mask=_mask(stop - start, seen, left_padding),
        )
        if block < tokens:
            # Else the scores of all blocks are allocated before the first is computed.
            mx.eval(out)
        outputs.append(out)
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def fused(
    q: mx.array, k: mx.array, v: mx.array, scale: float, left_padding: mx.array | None
) -> mx.array:
    """`attend` in MLX's fused kernel, which keeps no scores.

    Raises:
        ValueError: MLX has none for these shapes on this device; it is told at once, before
            anything runs.
    """
    mask = _mask(q.shape[2], k.shape[2], left_padding)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, force_fused=True)


def _attend_quantized(q: mx.array, rows: Rows, bits: int, scale: float) -> mx.array:
    """Attention of one position to all, keys and values read as they are stored.

    q [B, heads, 1, d]; rows: packed words, scales and biases of keys, then of values,
    [B, kv_heads, L, ...] each -> [B, heads, 1, d].
    """
    batch, heads, _, dim = q.shape
    kv_heads = rows[0].shape[1]
    # The query heads of one key head are the rows of one product.
    grouped = (q * scale).reshape(batch, kv_heads, heads // kv_heads, dim)
    scores = mx.quantized_matmul(grouped, *rows[:3], transpose=True, group_size=KV_GROUP, bits=bits)
    weights = mx.softmax(scores.astype(mx.float32), axis=-1).astype(q.dtype)
    out = mx.quantized_matmul(weights, *rows[3:], transpose=False, group_size=KV_GROUP, bits=bits)
    return out.reshape(batch, heads, 1, dim)


def _dequantized(part: Rows, bits: int, dtype: mx.Dtype) -> mx.array:
    return mx.dequantize(*part, group_size=KV_GROUP, bits=bits).astype(dtype)


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
    # Wavelengths in float64: what the kernel would derive from theta in float32 is off by
    # 1e-7, which position 262,144 turns into a visible angle.
    wavelengths = config.rope.theta ** (np.arange(0, dims, 2) / dims)
    magnitude = 1.0
    if config.rope.scaling is not None:
        wavelengths, magnitude = _yarn(wavelengths, config.rope.theta, config.rope.scaling)
    return Rope(mx.array(wavelengths.astype(np.float32)), magnitude)


def _yarn(
    wavelengths: np.ndarray, theta: float, scaling: Mapping[str, Any]
) -> tuple[np.ndarray, float]:
    """YaRN (https://arxiv.org/abs/2309.00071): long wavelengths are stretched, short ones are not.

    Args:
        wavelengths: [dims / 2], positions per radian without scaling.
        scaling: `rope_parameters` of config.json.

    Returns:
        wavelengths with scaling, and what queries and keys are multiplied by.
    """
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    pairs = len(wavelengths)

    def pair(turns: float) -> float:
        """Which pair of dimensions turns so often over the original context."""
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(theta)

    low, high = pair(scaling.get("beta_fast") or 32), pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - low) / max(high - low, 1e-3), 0, 1)
    scaled = 1 / ((1 - stretched) / wavelengths + stretched / (factor * wavelengths))

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    given = scaling.get("attention_factor")
    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if given is None:
        given = magnitude(over) / magnitude(under) if over and under else magnitude(1)
    return scaled, float(given)
