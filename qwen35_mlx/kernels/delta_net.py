"""A Gated DeltaNet layer between its two projections: convolution, norms, gates, rule, norm.

`reference` is the definition in plain MLX. `step` is one kernel for a few tokens, for decoding and
for checking speculated tokens.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gated_delta import gated_delta
from qwen35_mlx.kernels.portable import SIMD, Kernel, Launch, Launcher, backend

L2_EPS = 1e-6
STEP_TOKENS = 8
# Rows of the state in each SIMD group's registers. With 128 rows a head this makes threadgroups
# of 512 threads, which leaves each thread as many registers as Apple's GPUs have to give.
STEP_ROWS = 8


@dataclass(frozen=True, slots=True)
class DeltaNetParameters:
    """One layer's sizes and small weights.

    Attributes:
        taps: [kernel, channels] float32, the causal convolution over q, k and v.
        decay_rate: [nv] float32, exp(A_log).
        dt_bias: [nv] float32.
        norm: [dv] float32, of the gated norm.
        eps: of the gated norm.
    """

    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    taps: mx.array
    decay_rate: mx.array
    dt_bias: mx.array
    norm: mx.array
    eps: float

    @property
    def kernel(self) -> int:
        return self.taps.shape[0]

    @property
    def channels(self) -> int:
        """Of the convolution: q, k and v side by side."""
        return self.taps.shape[1]

    @property
    def key_dim(self) -> int:
        return self.key_heads * self.key_head_dim

    @property
    def value_dim(self) -> int:
        return self.value_heads * self.value_head_dim

    def empty(self, batch: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """conv and state before the first token."""
        heads = (self.value_heads, self.value_head_dim, self.key_head_dim)
        return (
            mx.zeros((batch, self.kernel - 1, self.channels), dtype),
            mx.zeros((batch, *heads), mx.float32),
        )


def mix(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    valid: mx.array | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """What lies between the projections, by whatever is fastest here.

    Args:
        projected: [B, T, channels + value_dim + 2 nv], q | k | v | z | b | a of each token.
        conv: [B, kernel - 1, channels], inputs of the convolution before these tokens.
        state: [B, nv, dv, dk] float32, the rule's state.
        valid: [B, T] bool, False at padding on the left, which then leaves no trace.

    Returns:
        y [B, T, value_dim] in projected's dtype, and the new conv and state.
    """
    if valid is None and backend() is not None and fits_step(projected.shape[1], layer):
        return step(projected, conv, state, layer)
    return reference(projected, conv, state, layer, valid)


def reference(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    valid: mx.array | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """`mix` in plain MLX; all float32 between reading `projected` and writing y."""
    batch, tokens, _ = projected.shape
    gates = layer.channels + layer.value_dim
    bounds = [layer.channels, gates, gates + layer.value_heads]
    qkv, z, b, a = mx.split(projected, bounds, axis=-1)
    if valid is not None:
        # Keys and values of nothing: an empty state stays empty, whatever the gates say.
        qkv = mx.where(valid[..., None], qkv, 0.0)
    window = mx.concatenate([conv, qkv], axis=1)
    # A copy, or the state would keep the whole prompt's projections alive.
    conv = mx.contiguous(window[:, tokens:])
    window = window.astype(mx.float32)
    mixed = window[:, :tokens] * layer.taps[0]
    for i in range(1, layer.kernel):
        mixed = mixed + window[:, i : i + tokens] * layer.taps[i]
    mixed = mixed * mx.sigmoid(mixed)
    q, k, v = mx.split(mixed, [layer.key_dim, 2 * layer.key_dim], axis=-1)
    keys = (batch, tokens, layer.key_heads, layer.key_head_dim)
    values = (batch, tokens, layer.value_heads, layer.value_head_dim)
    q = l2_norm(q.reshape(keys)) * layer.key_head_dim**-0.5
    k = l2_norm(k.reshape(keys))
    beta = mx.sigmoid(b.astype(mx.float32))
    g = -layer.decay_rate * mx.logaddexp(a.astype(mx.float32) + layer.dt_bias, 0.0)
    y, state = gated_delta(q, k, v.reshape(values), g, beta, state)
    z = z.reshape(values).astype(mx.float32)
    y = mx.fast.rms_norm(y, layer.norm, layer.eps) * z * mx.sigmoid(z)
    return y.reshape(batch, tokens, -1).astype(projected.dtype), conv, state


def l2_norm(x: mx.array) -> mx.array:
    """x [..., d] over its length; the epsilon is on the sum of squares, not on their mean."""
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + L2_EPS)


_STEP = Kernel(
    "gated_delta_step",
    inputs=(
        "projected",
        "conv",
        "state",
        "taps",
        "decay_rate",
        "dt_bias",
        "norm",
        "eps",
        "count",
    ),
    outputs=("y", "conv_out", "state_out"),
)


def fits_step(tokens: int, layer: DeltaNetParameters) -> bool:
    """Whether `step` can take this many tokens of a layer of this shape."""
    return (
        tokens <= STEP_TOKENS
        and layer.key_head_dim % SIMD == 0
        and layer.value_head_dim % STEP_ROWS == 0
    )


def step(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    count: int | None = None,
    launcher: Launcher | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """`mix` for up to 8 tokens in one dispatch.

    Args:
        count: take only the first `count` tokens, as after speculation. Their y is what it was;
            the others' is 0, and conv and state are as if they had never been.
        launcher: in place of the GPU.
    """
    batch, tokens, _ = projected.shape
    constants: dict[str, int | mx.Dtype] = {
        "InT": projected.dtype,
        "T": tokens,
        "NK": layer.key_heads,
        "NV": layer.value_heads,
        "DK": layer.key_head_dim,
        "DV": layer.value_head_dim,
        "KERNEL": layer.kernel,
        "ROWS": STEP_ROWS,
    }
    outputs = [
        ((batch, tokens, layer.value_dim), projected.dtype),
        (conv.shape, conv.dtype),
        (state.shape, mx.float32),
    ]
    launch = Launch(
        threadgroups=batch * layer.value_heads,
        threads=SIMD * (layer.value_head_dim // STEP_ROWS),
        outputs=outputs,
        constants=constants,
    )
    taken = tokens if count is None else count
    inputs = [
        projected,
        conv,
        state,
        layer.taps,
        layer.decay_rate,
        layer.dt_bias,
        layer.norm,
        mx.array([layer.eps], mx.float32),
        mx.array([taken], mx.int32),
    ]
    y, conv, state = _STEP(inputs, launch, launcher)
    return y, conv, state
