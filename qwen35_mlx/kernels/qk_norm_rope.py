"""RMS norm and rotary embedding of queries and keys, between their projection and the cache.

Plain MLX takes two norms, two rotations and copies of strided arrays for it; the kernel takes one
dispatch. Keys and values come out in one array, which the cache writes at once.
"""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE, KernelSelection

# For `KernelSelection.qk_norm_rope`.
KERNEL = "one dispatch"

_KERNEL = Kernel(
    "qk_norm_rope",
    inputs=("projected", "q_norm", "k_norm", "wavelengths", "offset"),
    outputs=("q", "kv"),
)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of a head's first dimensions: i rotates with i + dims / 2.

    Attributes:
        wavelengths: [dims / 2] float32, positions per radian.
        magnitude: factor of the rotated dimensions.
    """

    wavelengths: mx.array
    magnitude: float = 1.0

    @property
    def dims(self) -> int:
        """Number of rotated dimensions."""
        return 2 * self.wavelengths.size

    def __call__(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """x [B, heads, T, head_dim], rotated.

        Args:
            offset: its first position, an int or int32 []; or int32 [B], that of each row.
        """
        dims = self.dims
        if self.magnitude != 1:
            # As an array, since MLX rounds a Python number to x's dtype: by up to 0.2% in bfloat16.
            rotated = x[..., :dims] * mx.array(self.magnitude, mx.float32)
            x = mx.concatenate([rotated.astype(x.dtype), x[..., dims:]], axis=-1)
        return mx.fast.rope(
            x, dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self.wavelengths
        )


@dataclass(frozen=True, slots=True)
class AttentionParameters:
    """Sizes and small weights of a full-attention layer.

    Attributes:
        heads: query heads.
        kv_heads: key and value heads.
        q_norm, k_norm: [head_dim], of one dtype.
        eps: of the norms.
    """

    heads: int
    kv_heads: int
    head_dim: int
    q_norm: mx.array
    k_norm: mx.array
    eps: float
    rope: Rope


def qk_norm_rope(
    projected: mx.array,
    offset: int | mx.array,
    layer: AttentionParameters,
    selection: KernelSelection,
) -> tuple[mx.array, mx.array]:
    """Queries and keys, normalised and rotated, and values, by the selected variant.

    Args:
        projected: [B, T, 2 heads head_dim + 2 kv_heads head_dim]: query and gate of each head,
            then the keys, then the values.
        offset: position of the first token, a number or int32 []; or int32 [B], that of each row.

    Returns:
        q [B, heads, T, head_dim], and keys and values [2, B, kv_heads, T, head_dim], in projected's
        dtype.
    """
    decoding = projected.shape[1] <= MAX_DECODE_TOKENS
    plain = partial(reference, projected, offset, layer)
    if not decoding or selection.qk_norm_rope == REFERENCE:
        return plain()
    return selection.attempt("qk_norm_rope", partial(kernel, projected, offset, layer), plain)


def split_projection(projected: mx.array, layer: AttentionParameters) -> tuple[mx.array, ...]:
    """Views of q, gate, k and v in the `projected` of `qk_norm_rope`.

    projected [B, T, ...] -> q, gate [B, T, heads, head_dim]; k, v [B, T, kv_heads, head_dim].
    """
    batch, tokens, _ = projected.shape
    queries = 2 * layer.heads * layer.head_dim
    keys = layer.kv_heads * layer.head_dim
    q, k, v = mx.split(projected, [queries, queries + keys], axis=-1)
    q, gate = mx.split(q.reshape(batch, tokens, layer.heads, -1), 2, axis=-1)
    kv_shape = (batch, tokens, layer.kv_heads, layer.head_dim)
    return q, gate, k.reshape(kv_shape), v.reshape(kv_shape)


def reference(
    projected: mx.array, offset: int | mx.array, layer: AttentionParameters
) -> tuple[mx.array, mx.array]:
    """`qk_norm_rope` in plain MLX, for any number of tokens."""
    q, _, k, v = split_projection(projected, layer)
    q = mx.fast.rms_norm(q, layer.q_norm, layer.eps).astype(projected.dtype).swapaxes(1, 2)
    k = mx.fast.rms_norm(k, layer.k_norm, layer.eps).astype(projected.dtype).swapaxes(1, 2)
    return layer.rope(q, offset), mx.stack([layer.rope(k, offset), v.swapaxes(1, 2)])


def kernel(
    projected: mx.array, offset: int | mx.array, layer: AttentionParameters
) -> tuple[mx.array, mx.array]:
    """`reference` for at most `MAX_DECODE_TOKENS` tokens, in one dispatch.

    Like the reference it rounds a head to projected's dtype after the norm. Rotation and magnitude
    are computed in float32 and rounded once, where the reference rounds between the two.
    """
    batch, tokens, _ = projected.shape
    launch = Launch(
        threadgroups=batch * tokens * (layer.heads + layer.kv_heads),
        threads=SIMD_WIDTH,
        outputs=[
            ((batch, layer.heads, tokens, layer.head_dim), projected.dtype),
            ((2, batch, layer.kv_heads, tokens, layer.head_dim), projected.dtype),
        ],
        constants={
            "InT": projected.dtype,
            "H": layer.heads,
            "KV": layer.kv_heads,
            "D": layer.head_dim,
            "ROTARY": layer.rope.dims,
            "L": tokens,
            "EPS": float_bits(layer.eps),
            "MAGNITUDE": float_bits(layer.rope.magnitude),
        },
    )
    if isinstance(offset, int):
        offset = mx.array(offset, mx.int32)
    inputs = [projected, layer.q_norm, layer.k_norm, layer.rope.wavelengths, offset.reshape(-1)]
    q, kv = _KERNEL(inputs, launch)
    return q, kv
