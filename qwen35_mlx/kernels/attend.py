"""Attention of one token to all before it, and its gate, in two dispatches.

MLX has a kernel for this on Metal, without the gate; on CUDA it has none for heads of 256 and takes
it apart into products and a softmax. Keys and values are read where they lie, among room to grow.
"""

import mlx.core as mx

from qwen35_mlx.kernels.portable import SIMD, Kernel, Launch, float_bits

# For `Choices.attend_step`.
KERNEL = "two dispatches"
# Stretches that the keys are dealt out in, each to a threadgroup of so many SIMD groups.
SPLITS = 32
SIMDS = 8
# A lane keeps the columns of so many query heads.
MOST_GROUPED = 8

_PARTS = Kernel("attend_parts", inputs=("q", "k", "v"), outputs=("parts", "stats"), strided=True)
_JOIN = Kernel("attend_join", inputs=("parts", "stats", "gate"), outputs=("y",), strided=True)


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


def kernel(q: mx.array, k: mx.array, v: mx.array, gate: mx.array, scale: float) -> mx.array:
    """`reference` where `fits`; float32 but for the roundings that it has."""
    batch, heads, _, dim = q.shape
    sizes = {"H": heads, "D": dim, "SPLITS": SPLITS, "SIMDS": SIMDS}
    parts, stats = _PARTS(
        [q, k, v],
        Launch(
            threadgroups=batch * k.shape[1] * SPLITS,
            threads=SIMD * SIMDS,
            outputs=[
                ((batch, heads, SPLITS, dim), mx.float32),
                ((batch, heads, SPLITS, 2), mx.float32),
            ],
            constants={"InT": q.dtype, **sizes, "KV": k.shape[1], "SCALE": float_bits(scale)},
        ),
    )
    (y,) = _JOIN(
        [parts, stats, gate],
        Launch(
            threadgroups=batch * heads,
            threads=SIMD * SIMDS,
            outputs=[((batch, 1, heads * dim), q.dtype)],
            constants={"InT": q.dtype, **sizes},
        ),
    )
    return y
