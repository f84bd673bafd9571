"""A Gated DeltaNet layer between its two projections, by the selected variant.

`decode` computes a few tokens in one dispatch, for decoding and for verifying speculated tokens.
`prefill` computes many in three, so that nothing is computed twice: the inputs of the delta rule,
the rule, the gated norm. The definition is `delta_net_reference.reference`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import mlx.core as mx

from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters, reference
from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE, KernelSelection

_DECODE = Kernel(
    "delta_net_decode",
    inputs=("projected", "conv", "state", "taps", "decay_rate", "dt_bias", "norm"),
    outputs=("y", "conv_out", "state_out"),
)
_INPUTS = Kernel(
    "delta_net_inputs",
    inputs=("projected", "conv", "taps", "decay_rate", "dt_bias"),
    outputs=("q", "k", "v", "decay", "beta", "overlap", "conv_out"),
)
_RULE = Kernel(
    "delta_net_rule",
    inputs=("q", "k", "v", "decay", "beta", "overlap", "state"),
    outputs=("y", "state_out"),
)
_NORM = Kernel("delta_net_norm", inputs=("raw", "projected", "norm"), outputs=("y",))

# Bytes, on Metal.
THREADGROUP_MEMORY = 32768


@dataclass(frozen=True, slots=True)
class StateTiling:
    """How the rows of a head's state are spread over a GPU.

    Attributes:
        passes: sets of rows that a SIMD group has, computed one after the other.
        lanes: lanes that share a row.
        tile: tokens that a threadgroup loads together; prefill only.
        simd_groups: per threadgroup, or the next smaller power of two that divides a head's rows
            evenly; prefill only.
    """

    passes: int = 2
    lanes: int = 8
    tile: int = 8
    simd_groups: int = 4

    @property
    def rows(self) -> int:
        """Rows per SIMD group."""
        return SIMD_WIDTH // self.lanes * self.passes

    def supports(self, layer: DeltaNetParameters) -> bool:
        """Whether the layer's heads divide evenly and two tiles fit into threadgroup memory."""
        even = layer.value_head_dim % self.rows == 0 and layer.key_head_dim % SIMD_WIDTH == 0
        even = even and layer.key_head_dim % (4 * self.lanes) == 0
        # Of one token: query, key, values, and four floats for its gates.
        floats = 2 * layer.key_head_dim + self.rows * self.simd_groups + 4
        return even and 2 * self.tile * floats * 4 <= THREADGROUP_MEMORY


# For `KernelSelection.delta_decode`.
DECODE_VARIANTS = {
    "one dispatch": StateTiling(lanes=4),
    # Half the rows per thread, for a GPU with fewer registers.
    "one dispatch, 512 threads": StateTiling(),
}
# For `KernelSelection.delta_prefill`.
PREFILL_VARIANTS = {
    "tiles": StateTiling(),
    # Half the rows per thread, for fewer heads or fewer registers.
    "tiles, 1 pass": StateTiling(passes=1),
}
# Also for `delta_prefill`: MLX's own kernel for the rule, which is slow except on Apple's GPUs.
MLX_RULE = "mx.fast"


def mix(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    selection: KernelSelection,
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference`, by the selected variant."""
    decoding = projected.shape[1] <= MAX_DECODE_TOKENS
    variant = selection.delta_decode if decoding else selection.delta_prefill
    plain = partial(reference, projected, conv, state, layer)
    if variant == REFERENCE:
        return plain()
    if decoding:
        tiling = DECODE_VARIANTS[variant]
        kernel = partial(decode, projected, conv, state, layer, tiling=tiling)
        return selection.attempt("delta_decode", kernel, plain)
    tiling = PREFILL_VARIANTS.get(variant)
    kernel = partial(prefill, projected, conv, state, layer, tiling=tiling)
    return selection.attempt("delta_prefill", kernel, plain)


def decode(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    *,
    tiling: StateTiling = DECODE_VARIANTS["one dispatch"],
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` for at most `MAX_DECODE_TOKENS` tokens, in one dispatch."""
    batch, tokens, _ = projected.shape
    launch = Launch(
        threadgroups=batch * layer.value_heads,
        threads=SIMD_WIDTH * layer.value_head_dim // tiling.rows,
        outputs=[
            ((batch, tokens, layer.value_dim), projected.dtype),
            (conv.shape, conv.dtype),
            (state.shape, mx.float32),
        ],
        constants={
            "InT": projected.dtype,
            "OutT": projected.dtype,
            **_head_sizes(layer),
            "KERNEL": layer.kernel,
            "L": tokens,
            "PASSES": tiling.passes,
            "LANES": tiling.lanes,
            "EPS": float_bits(layer.eps),
        },
    )
    y, conv, state = _DECODE(
        [
            projected,
            conv,
            state,
            layer.taps,
            layer.decay_rate,
            layer.dt_bias,
            layer.norm,
        ],
        launch,
    )
    return y, conv, state


def prefill(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    *,
    tiling: StateTiling | None = PREFILL_VARIANTS["tiles"],
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` for any number of tokens, in three dispatches.

    Args:
        tiling: of the rule; None for MLX's own kernel.
    """
    q, k, v, decay, beta, overlap, conv = _INPUTS(
        [projected, conv, layer.taps, layer.decay_rate, layer.dt_bias],
        _inputs_launch(projected, conv, layer),
    )
    if tiling is None:
        # MLX has `gated_delta_update`, but its type stubs do not.
        raw, state = cast(Any, mx.fast).gated_delta_update(q, k, v, decay, beta, state)
    else:
        launch = _rule_launch(v, state, layer, tiling)
        raw, state = _RULE([q, k, v, decay, beta, overlap, state], launch)
    (y,) = _NORM([raw, projected, layer.norm], _norm_launch(projected, layer))
    return y, conv, state


def _head_sizes(layer: DeltaNetParameters) -> dict[str, int]:
    return {
        "NK": layer.key_heads,
        "NV": layer.value_heads,
        "DK": layer.key_head_dim,
        "DV": layer.value_head_dim,
    }


def _inputs_launch(projected: mx.array, conv: mx.array, layer: DeltaNetParameters) -> Launch:
    batch, tokens, _ = projected.shape
    simd_groups, tile = 4, 16
    block = 2 * layer.key_head_dim
    blocks = layer.key_heads + -(-layer.value_dim // block)
    keys = (batch, tokens, layer.key_heads, layer.key_head_dim)
    values = (batch, tokens, layer.value_heads, layer.value_head_dim)
    return Launch(
        threadgroups=-(-batch * -(-tokens // tile) * blocks // simd_groups),
        threads=SIMD_WIDTH * simd_groups,
        outputs=[
            (keys, mx.float32),
            (keys, mx.float32),
            (values, mx.float32),
            (values[:3], mx.float32),
            (values[:3], mx.float32),
            (keys[:3], mx.float32),
            (conv.shape, conv.dtype),
        ],
        constants={
            "InT": projected.dtype,
            **_head_sizes(layer),
            "B": batch,
            "KERNEL": layer.kernel,
            "SIMD_GROUPS": simd_groups,
            "TILE": tile,
        },
    )


def _rule_launch(
    v: mx.array, state: mx.array, layer: DeltaNetParameters, tiling: StateTiling
) -> Launch:
    simd_groups = tiling.simd_groups
    while layer.value_head_dim // tiling.rows % simd_groups:
        simd_groups //= 2
    rows = tiling.rows * simd_groups
    return Launch(
        threadgroups=v.shape[0] * layer.value_heads * layer.value_head_dim // rows,
        threads=SIMD_WIDTH * simd_groups,
        outputs=[(v.shape, mx.float32), (state.shape, mx.float32)],
        constants={
            **_head_sizes(layer),
            "SIMD_GROUPS": simd_groups,
            "PASSES": tiling.passes,
            "LANES": tiling.lanes,
            "TILE": tiling.tile,
        },
    )


def _norm_launch(projected: mx.array, layer: DeltaNetParameters) -> Launch:
    batch, tokens, width = projected.shape
    simd_groups = 4
    return Launch(
        threadgroups=-(-batch * tokens * layer.value_heads // simd_groups),
        threads=SIMD_WIDTH * simd_groups,
        outputs=[((batch, tokens, layer.value_dim), projected.dtype)],
        constants={
            "OutT": projected.dtype,
            "NV": layer.value_heads,
            "DV": layer.value_head_dim,
            "SIMD_GROUPS": simd_groups,
            "WIDTH": width,
            "Z_OFFSET": layer.channels,
            "EPS": float_bits(layer.eps),
        },
    )
