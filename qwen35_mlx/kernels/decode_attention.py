"""Attention of one token to all before it, and its gate, in two dispatches.

MLX has a kernel for this on Metal, without the gate; on CUDA it has none for heads of 256 and takes
it apart into products and a softmax. Keys and values are read where they lie, among room to grow,
the latest of them apart from the others.
"""

from collections.abc import Sequence

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD, Kernel, Launch, float_bits

# For `KernelSelection.decode_attention`.
KERNEL = "two dispatches"
# Keys that a SIMD group takes in at once, and SIMD groups of a threadgroup.
KEYS = 4
SIMDS = 8
# Keys of a stretch, at least, and threadgroups that all stretches may take.
SPAN = 32
MOST_GROUPS = 256
# Query heads to a key head, at most.
MOST_GROUPED = 8

_PARTS = Kernel(
    "decode_attention_partial",
    inputs=("q", "k", "v", "late_k", "late_v"),
    outputs=("parts", "stats"),
    strided=True,
)
_JOIN = Kernel(
    "decode_attention_merge", inputs=("parts", "stats", "gate"), outputs=("y",), strided=True
)


def gated(attended: mx.array, gate: mx.array) -> mx.array:
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
    return gated(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale), gate)


def fits(q: mx.array, k: mx.array) -> bool:
    """Whether `kernel` can do it: one token, and no more than registers hold."""
    heads, tokens, dim = q.shape[1:]
    grouped = heads // k.shape[1]
    return tokens == 1 and dim % 4 == 0 and dim <= 256 and grouped <= MOST_GROUPED


def kernel(
    q: mx.array,
    rows: Sequence[mx.array],
    late: Sequence[mx.array],
    gate: mx.array,
    scale: float,
) -> mx.array:
    """`reference` where `fits`; float32 but for the roundings that it has.

    Args:
        rows, late: k and v of the first keys, and of those after them, at least one each; both may
            have room to grow.
    """
    batch, heads, _, dim = q.shape
    kv_heads = rows[0].shape[1]
    keys = rows[0].shape[2] + late[0].shape[2]
    splits = min(-(-keys // SPAN), max(MOST_GROUPS // (batch * kv_heads), 1))
    sizes = {"InT": q.dtype, "H": heads, "D": dim, "SIMDS": SIMDS}
    parts, stats = _PARTS(
        [q, *rows, *late],
        Launch(
            threadgroups=batch * kv_heads * splits,
            threads=SIMD * SIMDS,
            outputs=[
                ((batch, heads, splits, dim), mx.float32),
                ((batch, heads, splits, 2), mx.float32),
            ],
            constants={**sizes, "KV": kv_heads, "KEYS": KEYS, "SCALE": float_bits(scale)},
        ),
    )
    (y,) = _JOIN(
        [parts, stats, gate],
        Launch(
            threadgroups=batch * heads * -(-dim // SIMD),
            threads=SIMD * SIMDS,
            outputs=[((batch, 1, heads * dim), q.dtype)],
            constants=sizes,
        ),
    )
    return y
