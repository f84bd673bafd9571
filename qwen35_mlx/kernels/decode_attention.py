"""Attention of a few tokens to all keys up to each, times their gate, in two dispatches.

Flash decoding: the keys are cut into splits, which are computed in parallel and then merged. On
Metal, MLX has such a kernel without the gate; on CUDA it has none for heads of 256 and falls back
to matrix products and a softmax. Keys and values are read in place: from buffers with room to grow,
and their latest rows from a separate tail. If they are quantised to 8 bits, they are unpacked in
registers.

What a token attends to is the same to the bit whether it is computed alone or in a pass of up to
`MAX_DECODE_TOKENS`: a reply does not depend on how many of its tokens were drafted.
"""

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS

# For `KernelSelection.decode_attention` and `decode_attention_8bit`.
KERNEL = "two dispatches"
# Bits of quantised keys and values that the kernel reads.
PACKED_BITS = 8
# Keys that a SIMD group computes at once.
KEY_TILE = 4
# SIMD groups for one token in a threadgroup, at most.
SIMD_GROUPS = 8
# Tokens of a threadgroup, at most: they share its reads. At 128 registers a thread, the most that
# half precision takes, two fill the register file of a CUDA multiprocessor.
TOKENS_PER_THREADGROUP = 2
THREADGROUP_BYTES = 32768
# Keys of a split are a multiple of this: a round of all SIMD groups.
MIN_SPLIT_KEYS = 32
# Threadgroups of all splits, at most, for each block of tokens.
MAX_THREADGROUPS = 256
# Query heads that share a KV head, at most, and those of them that a SIMD group computes.
MAX_QUERY_GROUP = 16
BLOCK_HEADS = 4

_PARTIAL = Kernel(
    "decode_attention_partial",
    inputs=("q", "k", "v", "k_tail", "v_tail"),
    outputs=("partial_acc", "partial_ml"),
    strided=True,
)
_PARTIAL_8BIT = Kernel(
    "decode_attention_partial_8bit",
    inputs=(
        *("q", "k", "k_scales", "k_biases", "v", "v_scales", "v_biases"),
        *("k_tail", "k_tail_scales", "k_tail_biases"),
        *("v_tail", "v_tail_scales", "v_tail_biases"),
    ),
    outputs=_PARTIAL.outputs,
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
    """Causal attention of the last T of N positions, gated, in plain MLX.

    Args:
        q: [B, heads, T, D]
        k, v: [B, kv_heads, N, D]
        gate: [B, T, heads, D]

    Returns:
        [B, T, heads D]
    """
    mask = None if q.shape[2] == 1 else "causal"
    return apply_gate(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask), gate)


def reference_8bit(q: mx.array, *rows: mx.array, gate: mx.array, scale: float) -> mx.array:
    """`reference` on words, scales and biases of keys, then of values; see `kernel`.

    In float32 up to the gate: rounded scores, or unpacked keys, differ by more than a kernel may.
    """
    group = q.shape[-1] // rows[1].shape[-1]

    def unpacked(words: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return mx.dequantize(words, scales, biases, group, PACKED_BITS)

    k, v = unpacked(*rows[:3]), unpacked(*rows[3:])
    mask = None if q.shape[2] == 1 else "causal"
    q32 = q.astype(mx.float32)
    attended = mx.fast.scaled_dot_product_attention(q32, k, v, scale=scale, mask=mask)
    return apply_gate(attended.astype(q.dtype), gate)


def supports(q: mx.array, k: mx.array) -> bool:
    """Whether `kernel` can compute it: a few tokens, and heads that fit in registers."""
    heads, tokens, dim = q.shape[1:]
    group = heads // k.shape[1]
    few = tokens <= MAX_DECODE_TOKENS
    return few and dim % 4 == 0 and dim <= 256 and group <= MAX_QUERY_GROUP


def first_rows(arrays: Sequence[mx.array], count: int) -> tuple[mx.array, ...]:
    """The first rows of keys and values, as `kernel` takes them.

    Of quantised ones, only the words are cut: they alone count rows, and Metal passes arrays of
    fewer than 8 elements, as few scales would be, in an address space that the body rules out.
    """
    parts = len(arrays) // 2
    return tuple(x if i % parts else x[:, :, :count] for i, x in enumerate(arrays))


def keys_of_one_round(batch: int, kv_heads: int) -> int:
    """Keys up to which a split has one round of all SIMD groups at most."""
    return MIN_SPLIT_KEYS * max_splits_for(batch, kv_heads)


def max_splits_for(batch: int, kv_heads: int) -> int:
    """Splits of the keys of a token, at most."""
    return max(MAX_THREADGROUPS // (batch * kv_heads), 1)


def split_size(keys: int, max_splits: int) -> int:
    """Keys of every split but the last of a token that sees `keys` keys."""
    return -(-keys // (MIN_SPLIT_KEYS * max_splits)) * MIN_SPLIT_KEYS


def kernel(
    q: mx.array,
    prefix: Sequence[mx.array],
    tail: Sequence[mx.array],
    gate: mx.array,
    scale: float,
) -> mx.array:
    """`reference`, if it `supports` the shapes; float32 except where the reference rounds.

    Args:
        prefix: k and v of the first keys, at least one. If they are quantised, words, scales and
            biases of each (`mx.quantize` to `PACKED_BITS`): [B, kv_heads, N, D / 4], and
            [B, kv_heads, N or more, groups] in q's dtype, at least 8 values each. All must lie in
            memory as the first does, row for row.
        tail: the same of the keys after them, at least those of the T tokens. Heads of prefix and
            tail may lie apart.
    """
    batch, _, tokens, _ = q.shape
    max_splits = max_splits_for(batch, prefix[0].shape[1])
    keys = prefix[0].shape[2] + tail[0].shape[2]
    first_keys = keys - tokens + 1
    size = split_size(first_keys, max_splits)
    if size == split_size(keys, max_splits):
        return _attend(q, prefix, tail, gate, scale, max_splits)
    # From one of these tokens on splits are larger. Those before it keep theirs.
    early = size * max_splits - first_keys + 1
    early_tail = first_rows(tail, tail[0].shape[2] + early - tokens)
    parts = [
        _attend(q[:, :, :early], prefix, early_tail, gate[:, :early], scale, max_splits),
        _attend(q[:, :, early:], prefix, tail, gate[:, early:], scale, max_splits),
    ]
    return mx.concatenate(parts, axis=1)


def _attend(
    q: mx.array,
    prefix: Sequence[mx.array],
    tail: Sequence[mx.array],
    gate: mx.array,
    scale: float,
    max_splits: int,
) -> mx.array:
    """`kernel` of tokens whose splits are of one size."""
    batch, heads, tokens, dim = q.shape
    kv_heads = prefix[0].shape[1]
    keys = prefix[0].shape[2] + tail[0].shape[2]
    splits = -(-keys // split_size(keys, max_splits))
    packed = len(prefix) > 2
    group_size = dim // prefix[1].shape[-1] if packed else 0
    shape = (batch, heads, kv_heads, tokens, splits, dim)
    first, second = _launches(shape, q.dtype, max_splits, scale, group_size)
    partial = _PARTIAL_8BIT if packed else _PARTIAL
    partial_acc, partial_ml = partial([q, *prefix, *tail], first)
    (y,) = _MERGE([partial_acc, partial_ml, gate], second)
    return y


@lru_cache(maxsize=512)
def _launches(
    shape: tuple[int, ...], dtype: mx.Dtype, max_splits: int, scale: float, group_size: int
) -> tuple[Launch, Launch]:
    """Of the two dispatches: layers alike share them, and so do tokens while `splits` stays.

    Args:
        shape: batch, heads, kv_heads, tokens, splits, dim.
        group_size: of quantised keys and values; 0 for others.
    """
    batch, heads, kv_heads, tokens, splits, dim = shape
    simd_groups, together = _geometry(tokens, heads // kv_heads, dim, dtype)
    first = Launch(
        threadgroups=batch * kv_heads * splits * -(-tokens // together),
        threads=SIMD_WIDTH * simd_groups * together,
        outputs=[
            ((batch, heads, tokens, splits, dim), mx.float32),
            ((batch, heads, tokens, splits, 2), mx.float32),
        ],
        constants={
            "InT": dtype,
            "H": heads,
            "KV": kv_heads,
            "D": dim,
            "TOKENS": together,
            "TOKEN_SIMD_GROUPS": simd_groups,
            "KEY_TILE": KEY_TILE,
            "MIN_SPLIT_KEYS": MIN_SPLIT_KEYS,
            "MAX_SPLITS": max_splits,
            "SCALE": float_bits(scale),
            **({"GS": group_size} if group_size else {}),
        },
    )
    second = Launch(
        threadgroups=batch * heads * tokens * -(-dim // SIMD_WIDTH),
        threads=SIMD_WIDTH * SIMD_GROUPS,
        outputs=[((batch, tokens, heads * dim), dtype)],
        constants={"InT": dtype, "H": heads, "D": dim, "SIMD_GROUPS": SIMD_GROUPS},
    )
    return first, second


def _geometry(tokens: int, group: int, dim: int, dtype: mx.Dtype) -> tuple[int, int]:
    """SIMD groups for one token, and tokens, of a threadgroup of the first dispatch.

    The first must not depend on the number of tokens: the order of additions does on it.
    """
    blocks = -(-group // BLOCK_HEADS)
    simd_groups = SIMD_GROUPS // blocks * blocks
    # Queries (padded to whole loads of a SIMD group), then sums in their place; maxima and sums.
    padded = -(-dim // (4 * SIMD_WIDTH)) * 4 * SIMD_WIDTH
    values = max(group * padded, simd_groups * dim) + 2 * simd_groups * BLOCK_HEADS
    most = TOKENS_PER_THREADGROUP if dtype.size == 2 else 1
    return simd_groups, min(tokens, most, THREADGROUP_BYTES // (4 * values))
