"""Attention of one token to all keys before it, times its gate, in two dispatches.

Flash decoding: the keys are cut into splits, which are computed in parallel and then merged. On
Metal, MLX has such a kernel without the gate; on CUDA it has none for heads of 256 and falls back
to matrix products and a softmax. Keys and values are read in place: from buffers with room to grow,
and their latest rows from a separate tail.
"""

from collections.abc import Sequence

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits

# For `KernelSelection.decode_attention`.
KERNEL = "two dispatches"
# Keys that a SIMD group computes at once.
KEY_TILE = 4
# SIMD groups per threadgroup.
SIMD_GROUPS = 8
# Keys per split, at least, and threadgroups of all splits, at most.
MIN_SPLIT_KEYS = 32
MAX_THREADGROUPS = 256
# Query heads that share a KV head, at most.
MAX_QUERY_GROUP = 8

_PARTIAL = Kernel(
    "decode_attention_partial",
    inputs=("q", "k", "v", "k_tail", "v_tail"),
    outputs=("partial_acc", "partial_ml"),
    strided=True,
)
_MERGE = Kernel(
    "decode_attention_merge",
    inputs=("partial_acc", "partial_ml", "gate"),
    outputs=("y",),
    strided=True,
)


def apply_gate(attended: mx.array, gate: mx.array) -> mx.array:
    """attended [B, heads, T, D] times the sigmoid of gate [B, T, heads, D] -> [B, T, heads D]."""
    return (attended.swapaxes(1, 2) * mx.sigmoid(gate)).flatten(2)


def reference(q: mx.array, k: mx.array, v: mx.array, gate: mx.array, scale: float) -> mx.array:
    """Attention of one token to N keys, gated, in plain MLX.

    Args:
        q: [B, heads, 1, D]
        k, v: [B, kv_heads, N, D]
        gate: [B, 1, heads, D]

    Returns:
        [B, 1, heads D]
    """
    return apply_gate(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale), gate)


def supports(q: mx.array, k: mx.array) -> bool:
    """Whether `kernel` can compute it: one token, and heads that fit in registers."""
    heads, tokens, dim = q.shape[1:]
    group = heads // k.shape[1]
    return tokens == 1 and dim % 4 == 0 and dim <= 256 and group <= MAX_QUERY_GROUP


def kernel(
    q: mx.array,
    prefix: Sequence[mx.array],
    tail: Sequence[mx.array],
    gate: mx.array,
    scale: float,
) -> mx.array:
    """`reference`, if it `supports` the shapes; float32 except where the reference rounds.

    Args:
        prefix: k and v of the first keys, at least one.
        tail: k and v of the keys after them, at least one. Heads of prefix and tail may lie apart.
    """
    batch, heads, _, dim = q.shape
    kv_heads = prefix[0].shape[1]
    keys = prefix[0].shape[2] + tail[0].shape[2]
    splits = min(-(-keys // MIN_SPLIT_KEYS), max(MAX_THREADGROUPS // (batch * kv_heads), 1))
    sizes = {"InT": q.dtype, "H": heads, "D": dim, "SIMD_GROUPS": SIMD_GROUPS}
    partial_acc, partial_ml = _PARTIAL(
        [q, *prefix, *tail],
        Launch(
            threadgroups=batch * kv_heads * splits,
            threads=SIMD_WIDTH * SIMD_GROUPS,
            outputs=[
                ((batch, heads, splits, dim), mx.float32),
                ((batch, heads, splits, 2), mx.float32),
            ],
            constants={**sizes, "KV": kv_heads, "KEY_TILE": KEY_TILE, "SCALE": float_bits(scale)},
        ),
    )
    (y,) = _MERGE(
        [partial_acc, partial_ml, gate],
        Launch(
            threadgroups=batch * heads * -(-dim // SIMD_WIDTH),
            threads=SIMD_WIDTH * SIMD_GROUPS,
            outputs=[((batch, 1, heads * dim), q.dtype)],
            constants=sizes,
        ),
    )
    return y
