"""Queries and keys of full attention as they leave their projection, made ready for the cache.

Each head gets an RMS norm, and its first dimensions are rotated by the token's position: two norms,
two rotations and copies of what is strided, or one dispatch.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD, Kernel, Launch, float_bits
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection

STEP_TOKENS = 8
# For `KernelSelection.qk_norm_rope`.
KERNEL = "one dispatch"

_KERNEL = Kernel(
    "qk_norm_rope",
    inputs=("projected", "q_norm", "k_norm", "wavelengths", "offset"),
    outputs=("q", "k"),
)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of a head's first dimensions: i turns with i + dims / 2.

    Attributes:
        wavelengths: [dims / 2] float32, positions per radian.
        magnitude: what rotated dimensions are multiplied by.
    """

    wavelengths: mx.array
    magnitude: float = 1.0

    @property
    def dims(self) -> int:
        """That are rotated."""
        return 2 * self.wavelengths.size

    def __call__(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """x [B, heads, T, head_dim] at positions `offset` and on, a number or int32 []."""
        dims = self.dims
        if self.magnitude != 1:
            # By an array: a number would be rounded to x's dtype first, to 0.2% in bfloat16.
            rotated = x[..., :dims] * mx.array(self.magnitude, mx.float32)
            x = mx.concatenate([rotated.astype(x.dtype), x[..., dims:]], axis=-1)
        return mx.fast.rope(
            x, dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self.wavelengths
        )


@dataclass(frozen=True, slots=True)
class AttentionParameters:
    """What a full-attention layer does to queries and keys.

    Attributes:
        heads, kv_heads: of queries; of keys and values.
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
    """Queries and keys, normalised and rotated, in the form chosen for so many tokens.

    Args:
        projected: [B, T, 2 heads head_dim + 2 kv_heads head_dim]: of each head the query, then its
            gate; then the keys; then the values.
        offset: position of the first token, a number or int32 [].

    Returns:
        q [B, heads, T, head_dim] and k [B, kv_heads, T, head_dim], in projected's dtype.
    """
    few = projected.shape[1] <= STEP_TOKENS
    form = reference if selection.qk_norm_rope == REFERENCE or not few else kernel
    return form(projected, offset, layer)


def parts(projected: mx.array, layer: AttentionParameters) -> tuple[mx.array, ...]:
    """Views of what `qk_norm_rope` takes, as they lie: q, gate, k, v.

    projected [B, T, ...] -> q, gate [B, T, heads, head_dim]; k, v [B, T, kv_heads, head_dim].
    """
    batch, tokens, _ = projected.shape
    queries = 2 * layer.heads * layer.head_dim
    keys = layer.kv_heads * layer.head_dim
    q, k, v = mx.split(projected, [queries, queries + keys], axis=-1)
    q, gate = mx.split(q.reshape(batch, tokens, layer.heads, -1), 2, axis=-1)
    own = (batch, tokens, layer.kv_heads, layer.head_dim)
    return q, gate, k.reshape(own), v.reshape(own)


def reference(
    projected: mx.array, offset: int | mx.array, layer: AttentionParameters
) -> tuple[mx.array, mx.array]:
    """`qk_norm_rope` in plain MLX, for any number of tokens."""
    q, _, k, _ = parts(projected, layer)
    q = mx.fast.rms_norm(q, layer.q_norm, layer.eps).astype(projected.dtype).swapaxes(1, 2)
    k = mx.fast.rms_norm(k, layer.k_norm, layer.eps).astype(projected.dtype).swapaxes(1, 2)
    return layer.rope(q, offset), layer.rope(k, offset)


def kernel(
    projected: mx.array, offset: int | mx.array, layer: AttentionParameters
) -> tuple[mx.array, mx.array]:
    """`reference` for at most `STEP_TOKENS` tokens, in one dispatch.

    A head is rounded to projected's dtype after its norm, as there. Its rotation, the magnitude
    included, is in float32 and rounded once: closer to the exact values than the reference, which
    rounds between the two.
    """
    batch, tokens, _ = projected.shape
    launch = Launch(
        threadgroups=batch * tokens * (layer.heads + layer.kv_heads),
        threads=SIMD,
        outputs=[
            ((batch, layer.heads, tokens, layer.head_dim), projected.dtype),
            ((batch, layer.kv_heads, tokens, layer.head_dim), projected.dtype),
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
    inputs = [projected, layer.q_norm, layer.k_norm, layer.rope.wavelengths, offset.reshape(1)]
    q, k = _KERNEL(inputs, launch)
    return q, k
