"""A Gated DeltaNet layer between its two projections: convolution, norms, gates, rule, norm.

`reference` is the definition in plain MLX. `kernel` is the same in one dispatch for a few tokens,
for decoding and for checking speculated ones, and in two for many.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.choices import Choices
from qwen35_mlx.kernels.gated_delta import gated_delta
from qwen35_mlx.kernels.portable import SIMD, Kernel, Launch

L2_EPS = 1e-6


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


def reference(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    valid: mx.array | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """What lies between the projections, in plain MLX: the definition.

    All float32 between reading `projected` and writing y.

    Args:
        projected: [B, T, channels + value_dim + 2 nv], q | k | v | z | b | a of each token.
        conv: [B, kernel - 1, channels], inputs of the convolution before these tokens.
        state: [B, nv, dv, dk] float32, the rule's state.
        valid: [B, T] bool, False at padding on the left, which then leaves no trace.

    Returns:
        y [B, T, value_dim] in projected's dtype, and the new conv and state.
    """
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


_RULE = Kernel(
    "gated_delta",
    inputs=(
        "projected",
        "conv",
        "state",
        "taps",
        "decay_rate",
        "dt_bias",
        "norm",
        "eps",
        "lengths",
        "padding",
    ),
    outputs=("y", "conv_out", "state_out"),
)
_NORM = Kernel("gated_norm", inputs=("raw", "projected", "norm", "eps", "lengths"), outputs=("y",))


@dataclass(frozen=True, slots=True)
class Layout:
    """How the kernel is laid out on a GPU.

    Attributes:
        split: threadgroups that share a head; with one, the gated norm is part of the kernel.
        passes: sets of rows that each SIMD group keeps, one after the other.
        lanes: that share a row.
        tile: tokens between two rounds of loading.
    """

    split: int = 1
    passes: int = 2
    lanes: int = 8
    tile: int = 8

    def fits(self, layer: DeltaNetParameters) -> bool:
        """Whether a layer's heads divide evenly."""
        rows = SIMD // self.lanes * self.passes * self.split
        return layer.value_head_dim % rows == 0 and layer.key_head_dim % (4 * self.lanes) == 0


# A head to a threadgroup, so that the gated norm is part of the same dispatch.
DECODE = Layout()
# The same with half the threads, for a GPU whose registers do not hold 512 of them.
DECODE_NARROW = Layout(passes=4)
# Few heads leave most of a GPU idle over a long prompt, unless each is shared out.
PREFILL = Layout(split=4)
LAYOUTS = {
    "one dispatch": DECODE,
    "one dispatch, 256 threads": DECODE_NARROW,
    "split by 2": Layout(split=2),
    "split by 4": PREFILL,
    "split by 4, 4 lanes": Layout(split=4, passes=1, lanes=4),
    "split by 8": Layout(split=8, passes=1),
}
STEP_FORMS = ("one dispatch", "one dispatch, 256 threads")
PROMPT_FORMS = tuple(name for name in LAYOUTS if name not in STEP_FORMS)
STEP_TOKENS = DECODE.tile


def mix(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    valid: mx.array | None,
    choices: Choices,
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` in the form chosen for so many tokens."""
    few = projected.shape[1] <= STEP_TOKENS
    layout = LAYOUTS.get(choices.delta_step if few else choices.delta_prompt)
    if layout is None:
        return reference(projected, conv, state, layer, valid)
    padding = None if valid is None else mx.sum(~valid, axis=1).astype(mx.int32)
    return kernel(projected, conv, state, layer, padding=padding, layout=layout)


def kernel(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    *,
    count: int | None = None,
    padding: mx.array | None = None,
    layout: Layout = DECODE,
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` in one dispatch, or two where a head is split.

    Args:
        count: take only the first `count` tokens, as after speculation. Their y is what it was,
            the others' is not meant to be read, and conv and state are as if those had never been.
        padding: [B] int32, tokens on the left of each row that leave no trace.
    """
    batch, tokens, width = projected.shape
    shape = {"NV": layer.value_heads, "DV": layer.value_head_dim}
    fused = layout.split == 1
    out = projected.dtype if fused else mx.float32
    eps = mx.array([layer.eps], mx.float32)
    rule = Launch(
        threadgroups=batch * layer.value_heads * layout.split,
        threads=layer.value_head_dim * layout.lanes // (layout.split * layout.passes),
        outputs=[
            ((batch, tokens, layer.value_dim), out),
            (conv.shape, conv.dtype),
            (state.shape, mx.float32),
        ],
        constants={
            "InT": projected.dtype,
            "OutT": out,
            **shape,
            "NK": layer.key_heads,
            "DK": layer.key_head_dim,
            "KERNEL": layer.kernel,
            "SPLIT": layout.split,
            "PASSES": layout.passes,
            "LANES": layout.lanes,
            "TILE": min(layout.tile, tokens),
            "NORMED": int(fused),
        },
    )
    inputs = [
        projected,
        conv,
        state,
        layer.taps,
        layer.decay_rate,
        layer.dt_bias,
        layer.norm,
        eps,
        mx.array([tokens, tokens if count is None else count], mx.int32),
        mx.array([0] * batch, mx.int32) if padding is None else padding,
    ]
    y, conv, state = _RULE(inputs, rule)
    if not fused:
        simds = 4
        norm = Launch(
            threadgroups=-(-batch * tokens * layer.value_heads // simds),
            threads=SIMD * simds,
            outputs=[(y.shape, projected.dtype)],
            constants={
                "OutT": projected.dtype,
                **shape,
                "SIMDS": simds,
                "WIDTH": width,
                "FIRST": layer.channels,
            },
        )
        total = mx.array([batch * tokens], mx.int32)
        (y,) = _NORM([y, projected, layer.norm, eps, total], norm)
    return y, conv, state
