"""Gated full attention: grouped queries, q and k norms, partial RoPE and a sigmoid output gate."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels import decode_attention
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.qk_norm_rope import (
    AttentionParameters,
    Rope,
    qk_norm_rope,
    split_projection,
)
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVArrays, KVCache, TailPlace
from qwen35_mlx.model.linear import FusedLinear
from qwen35_mlx.model.memory import KV_GROUP, SCORE_BUDGET
from qwen35_mlx.model.recordings import PassRecording
from qwen35_mlx.model.weights import Weights

# For `KernelSelection.prefill_attention`: require MLX's fused kernel. By itself MLX does not take
# it for many queries of head_dim 256 on most GPUs.
FUSED = "fused"
# Up to this many queries MLX takes its decode kernel by itself.
FEW_QUERIES = 8


class Attention:
    """The full-attention mixer of one layer.

    Args:
        shared: as for `Layer`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        rope: Rope,
        shared: PassRecording | None = None,
    ):
        self._shared = shared
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.selection = weights.selection
        self.qkv_proj = FusedLinear(
            weights.linear("q_proj"), weights.linear("k_proj"), weights.linear("v_proj")
        )
        self.o_proj = weights.linear("o_proj")
        self.parameters = AttentionParameters(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            q_norm=weights.array("q_norm.weight"),
            k_norm=weights.array("k_norm.weight"),
            eps=config.rms_norm_eps,
            rope=rope,
        )

    def project(
        self, x: mx.array, offset: int | mx.array, norm: RMSNorm | None = None
    ) -> tuple[mx.array, ...]:
        """Queries, keys and values, and the output gate.

        Args:
            x: [B, T, hidden].
            offset: as for `qk_norm_rope`.
            norm: applied to x first.

        Returns:
            q [B, heads, T, head_dim]; kv [2, B, kv_heads, T, head_dim];
            gate [B, T, heads, head_dim].
        """
        projected = self.qkv_proj.joined(x, norm)
        _, gate, _, _ = split_projection(projected, self.parameters)
        q, kv = qk_norm_rope(projected, offset, self.parameters, self.selection)
        return q, kv, gate

    def attend(self, q: mx.array, kv: mx.array, cache: KVCache) -> mx.array:
        """Append kv to the cache and attend to all of it -> [B, heads, T, head_dim]."""
        rows = cache.update(kv[0], kv[1])
        scale = self.head_dim**-0.5
        if cache.bits is None:
            return causal_attention(q, rows[0], rows[1], scale, self.selection)
        return quantized_attention(q, rows, cache.bits, scale, self.selection)

    def attend_gated(self, q: mx.array, kv: mx.array, gate: mx.array, cache: KVCache) -> mx.array:
        """`attend` and the output gate in the decode kernel -> [B, T, heads head_dim].

        Only where `uses_decode_kernel`.
        """
        place = cache.next_in_tail(kv.shape[3])
        buffer, tail = cache.parts
        append_and_attend = partial(_append_and_attend, place, self.head_dim**-0.5)
        if self._shared is not None:
            append_and_attend = self._shared.get(append_and_attend, place, q)

        def kernel() -> mx.array:
            y, *rows = append_and_attend(q, kv, gate, *buffer, *tail)
            cache.set_tail(place, tuple(rows))
            return y

        def plain() -> mx.array:
            return decode_attention.apply_gate(self.attend(q, kv, cache), gate)

        return self.selection.attempt(_operation(cache), kernel, plain)

    def attend_each(
        self,
        q: mx.array,
        kv: mx.array,
        gate: mx.array,
        caches: Sequence[KVCache],
    ) -> mx.array:
        """Each row's own attention, gated: as `attend_gated`, where row i has `caches[i]`."""
        rows = []
        for i, cache in enumerate(caches):
            one = q[i : i + 1], kv[:, i : i + 1]
            if self.uses_decode_kernel(*one, cache):
                rows.append(self.attend_gated(*one, gate[i : i + 1], cache))
            else:
                attended = self.attend(*one, cache)
                rows.append(decode_attention.apply_gate(attended, gate[i : i + 1]))
        return mx.concatenate(rows)

    def uses_decode_kernel(self, q: mx.array, kv: mx.array, cache: KVCache) -> bool:
        """Whether the decode kernel is selected and supports these shapes and this cache."""
        if cache.bits not in (None, decode_attention.PACKED_BITS) or not cache.offset:
            return False
        variant = getattr(self.selection, _operation(cache))
        return variant == decode_attention.KERNEL and decode_attention.supports(q, kv[0])

    def gate_and_project(
        self, attended: mx.array, gate: mx.array, residual: mx.array | None = None
    ) -> mx.array:
        """The output gate, then `o_proj`.

        Args:
            attended: [B, heads, T, head_dim].
            gate: [B, T, heads, head_dim].
            residual: [B, T, hidden], added to the output.

        Returns:
            [B, T, hidden]
        """
        return self.o_proj(decode_attention.apply_gate(attended, gate), residual=residual)


def _append_and_attend(
    place: TailPlace,
    scale: float,
    q: mx.array,
    kv: mx.array,
    gate: mx.array,
    *arrays: mx.array,
) -> tuple[mx.array, ...]:
    """The decode kernel's output, and the tail with kv.

    Args:
        arrays: of the buffer, then of the tail.
    """
    # The tail has keys and values in one array, the buffer in two.
    buffer, tail = arrays[: len(arrays) // 3 * 2], arrays[len(arrays) // 3 * 2 :]
    place.write(tail, kv)
    return decode_attention.kernel(q, *place.in_use(buffer, tail), gate, scale), *tail


def _operation(cache: KVCache) -> str:
    """The field of `KernelSelection` that holds for few tokens."""
    return "decode_attention" if cache.bits is None else "decode_attention_8bit"


def causal_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, selection: KernelSelection
) -> mx.array:
    """Causal attention of the last T of L positions, in the selected variant.

    q [B, heads, T, d]; k, v [B, kv_heads, L, d] -> [B, heads, T, d].
    """
    if selection.prefill_attention == FUSED and q.shape[2] > FEW_QUERIES:
        return fused_attention(q, k, v, scale)
    return blockwise_attention(q, k, v, scale)


def blockwise_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """`causal_attention` with MLX's own choice of kernel, one block of queries at a time.

    The scores of a block take at most `SCORE_BUDGET` bytes.
    """
    batch, heads, tokens, _ = q.shape
    length = k.shape[2]
    block = max(1, SCORE_BUDGET // (4 * batch * heads * length))
    outputs = []
    for start in range(0, tokens, block):
        stop = min(start + block, tokens)
        visible = length - tokens + stop
        out = mx.fast.scaled_dot_product_attention(
            q[:, :, start:stop],
            k[:, :, :visible],
            v[:, :, :visible],
            scale=scale,
            mask=None if stop - start == 1 else "causal",
        )
        if block < tokens:
            # Otherwise MLX allocates the scores of all blocks before it computes the first.
            mx.eval(out)
        outputs.append(out)
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def fused_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """`causal_attention` of two or more queries in MLX's fused kernel, which stores no scores.

    Raises:
        ValueError: MLX has no such kernel for these shapes on this device; raised at once, before
            anything is computed.
    """
    return mx.fast.scaled_dot_product_attention(
        q, k, v, scale=scale, mask="causal", force_fused=True
    )


def quantized_attention(
    q: mx.array, rows: KVArrays, bits: int, scale: float, selection: KernelSelection
) -> mx.array:
    """`causal_attention`, where keys and values are quantised.

    rows: words, scales and biases of keys, then of values, as `KVCache.update` returns them.
    """
    if q.shape[2] == 1:
        return _quantized_decode_attention(q, rows, bits, scale)
    k, v = (_dequantize(half, bits, q.dtype) for half in (rows[:3], rows[3:]))
    return causal_attention(q, k, v, scale, selection)


def _quantized_decode_attention(q: mx.array, rows: KVArrays, bits: int, scale: float) -> mx.array:
    """Attention of one position to all, on keys and values in their quantised form.

    q [B, heads, 1, d]; rows: packed words, scales and biases of keys, then of values,
    [B, kv_heads, L, ...] each -> [B, heads, 1, d].
    """
    batch, heads, _, dim = q.shape
    kv_heads = rows[0].shape[1]
    # The query heads that share a key head are the rows of one matrix product.
    grouped = (q * scale).reshape(batch, kv_heads, heads // kv_heads, dim)
    scores = mx.quantized_matmul(grouped, *rows[:3], transpose=True, group_size=KV_GROUP, bits=bits)
    weights = mx.softmax(scores.astype(mx.float32), axis=-1).astype(q.dtype)
    out = mx.quantized_matmul(weights, *rows[3:], transpose=False, group_size=KV_GROUP, bits=bits)
    return out.reshape(batch, heads, 1, dim)


def _dequantize(packed: KVArrays, bits: int, dtype: mx.Dtype) -> mx.array:
    return mx.dequantize(*packed, group_size=KV_GROUP, bits=bits).astype(dtype)


def make_rope(config: ModelConfig) -> Rope:
    """Rotary embedding of the first `config.rotary_dim` dimensions of each head."""
    dims = config.rotary_dim
    # Wavelengths in float64: derived from theta in float32, as the kernel would, they are off by
    # 1e-7, which at position 262,144 is a visible angle.
    wavelengths = config.rope.theta ** (np.arange(0, dims, 2) / dims)
    magnitude = 1.0
    if config.rope.scaling is not None:
        wavelengths, magnitude = _yarn(wavelengths, config.rope.theta, config.rope.scaling)
    return Rope(mx.array(wavelengths.astype(np.float32)), magnitude)


def _yarn(
    wavelengths: np.ndarray, theta: float, scaling: Mapping[str, Any]
) -> tuple[np.ndarray, float]:
    """YaRN (https://arxiv.org/abs/2309.00071): stretch long wavelengths and leave short ones.

    Args:
        wavelengths: [dims / 2], positions per radian without scaling.
        scaling: `rope_parameters` of config.json.

    Returns:
        scaled wavelengths, and the factor (`Rope.magnitude`) of rotated queries and keys.
    """
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    pairs = len(wavelengths)

    def pair_index(turns: float) -> float:
        """The pair of dimensions, not rounded, that turns `turns` times in that context."""
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(theta)

    low = pair_index(scaling.get("beta_fast") or 32)
    high = pair_index(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - low) / max(high - low, 1e-3), 0, 1)
    scaled = 1 / ((1 - stretched) / wavelengths + stretched / (factor * wavelengths))

    def magnitude_of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    magnitude = scaling.get("attention_factor")
    if magnitude is None:
        mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
        magnitude = (
            magnitude_of(mscale) / magnitude_of(all_dim) if mscale and all_dim else magnitude_of(1)
        )
    return scaled, float(magnitude)
