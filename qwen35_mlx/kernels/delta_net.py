"""A Gated DeltaNet layer between its two projections, in the form that is fastest.

`step` does it in one dispatch for a few tokens, for decoding and for checking speculated ones;
`prompt` in three for many, so that nothing is computed twice: what the rule reads, the rule, the
gated norm. The definition is `delta_reference.reference`.
"""

from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from qwen35_mlx.kernels.delta_net_reference import DeltaNetParameters, reference
from qwen35_mlx.kernels.gpu_kernel import SIMD, Kernel, Launch, float_bits
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection

_STEP = Kernel(
    "delta_net_step",
    inputs=(
        "projected",
        "conv",
        "state",
        "taps",
        "decay_rate",
        "dt_bias",
        "norm",
        "count",
        "padding",
    ),
    outputs=("y", "conv_out", "state_out"),
)
_INPUTS = Kernel(
    "delta_net_inputs",
    inputs=("projected", "conv", "taps", "decay_rate", "dt_bias", "padding"),
    outputs=("q", "k", "v", "decay", "beta", "overlap", "conv_out"),
)
_RULE = Kernel(
    "delta_net_rule",
    inputs=("q", "k", "v", "decay", "beta", "overlap", "state"),
    outputs=("y", "state_out"),
)
_NORM = Kernel("delta_net_norm", inputs=("raw", "projected", "norm"), outputs=("y",))


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a head's state lie on a GPU.

    Attributes:
        passes: sets of rows that each SIMD group keeps, one after the other.
        lanes: that share a row.
        tile: tokens that a threadgroup fetches together; of a prompt only.
        simds: SIMD groups of a threadgroup, where so many divide a head's rows evenly, else the
            next smaller power of two that does; of a prompt only.
    """

    passes: int = 2
    lanes: int = 8
    tile: int = 8
    simds: int = 4

    @property
    def rows(self) -> int:
        """Of one SIMD group."""
        return SIMD // self.lanes * self.passes

    def fits(self, layer: DeltaNetParameters) -> bool:
        """Whether a layer's heads divide evenly, and two tiles fit into threadgroup memory."""
        even = layer.value_head_dim % self.rows == 0 and layer.key_head_dim % SIMD == 0
        even = even and layer.key_head_dim % (4 * self.lanes) == 0
        # Query, key and values of a token, and its gates in a run of four.
        floats = 2 * layer.key_head_dim + self.rows * self.simds + 4
        return even and 2 * self.tile * floats * 4 <= THREADGROUP_MEMORY


# Bytes, on Metal.
THREADGROUP_MEMORY = 32768
STEP_TOKENS = 8
STEPS = {
    "one dispatch": Layout(lanes=4),
    # For a GPU whose registers do not hold as many rows of a thread.
    "one dispatch, 512 threads": Layout(),
}
PROMPTS = {
    "tiles": Layout(),
    # For fewer heads, or fewer registers.
    "tiles, 1 pass": Layout(passes=1),
}
# The rule as MLX has it; on other GPUs than Apple's it is slow.
MLX_RULE = "mx.fast"


def mix(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    valid: mx.array | None = None,
    selection: KernelSelection | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` in the form chosen for so many tokens."""
    few = projected.shape[1] <= STEP_TOKENS
    selection = selection or KernelSelection()
    form = selection.delta_decode if few else selection.delta_prefill
    if form == REFERENCE:
        return reference(projected, conv, state, layer, valid)
    padding = None if valid is None else mx.sum(~valid, axis=1).astype(mx.int32)
    if few:
        return step(projected, conv, state, layer, padding=padding, layout=STEPS[form])
    return prompt(projected, conv, state, layer, padding=padding, layout=PROMPTS.get(form))


def _sizes(layer: DeltaNetParameters) -> dict[str, int]:
    return {
        "NK": layer.key_heads,
        "NV": layer.value_heads,
        "DK": layer.key_head_dim,
        "DV": layer.value_head_dim,
    }


def step(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    *,
    count: int | None = None,
    padding: mx.array | None = None,
    layout: Layout = STEPS["one dispatch"],
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` for at most `STEP_TOKENS` tokens, in one dispatch.

    Args:
        count: take only the first `count` tokens, as after speculation: y of the others is 0, and
            conv and state are as if those had never been.
        padding: [B] int32, tokens on the left of each row that leave no trace.
    """
    batch, tokens, _ = projected.shape
    launch = Launch(
        threadgroups=batch * layer.value_heads,
        threads=SIMD * layer.value_head_dim // layout.rows,
        outputs=[
            ((batch, tokens, layer.value_dim), projected.dtype),
            (conv.shape, conv.dtype),
            (state.shape, mx.float32),
        ],
        constants={
            "InT": projected.dtype,
            "OutT": projected.dtype,
            **_sizes(layer),
            "KERNEL": layer.kernel,
            "L": tokens,
            "PASSES": layout.passes,
            "LANES": layout.lanes,
            "EPS": float_bits(layer.eps),
            "COUNTED": int(count is not None),
            "PADDED": int(padding is not None),
        },
    )
    unread = layer.dt_bias
    y, conv, state = _STEP(
        [
            projected,
            conv,
            state,
            layer.taps,
            layer.decay_rate,
            layer.dt_bias,
            layer.norm,
            unread if count is None else mx.array([count], mx.int32),
            unread if padding is None else padding,
        ],
        launch,
    )
    return y, conv, state


def prompt(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
    *,
    padding: mx.array | None = None,
    layout: Layout | None = PROMPTS["tiles"],
) -> tuple[mx.array, mx.array, mx.array]:
    """`reference` for any number of tokens, in three dispatches.

    Args:
        padding: [B] int32, tokens on the left of each row that leave no trace.
        layout: of the rule; None for MLX's own.
    """
    batch, tokens, width = projected.shape
    sizes = _sizes(layer)
    unread = layer.dt_bias
    inputs = [projected, conv, layer.taps, layer.decay_rate, layer.dt_bias]
    inputs.append(unread if padding is None else padding)
    q, k, v, decay, beta, overlap, conv = _INPUTS(
        inputs, _inputs_launch(projected, conv, layer, padding is not None)
    )
    if layout is None:
        # `mx.fast.gated_delta_update` is in the library, but not in its type stubs.
        y, state = cast(Any, mx.fast).gated_delta_update(q, k, v, decay, beta, state)
    else:
        simds = _simds(layer.value_head_dim // layout.rows, layout.simds)
        rule = Launch(
            threadgroups=batch * layer.value_heads * layer.value_head_dim // layout.rows // simds,
            threads=SIMD * simds,
            outputs=[(v.shape, mx.float32), (state.shape, mx.float32)],
            constants={
                **sizes,
                "SIMDS": simds,
                "PASSES": layout.passes,
                "LANES": layout.lanes,
                "TILE": layout.tile,
            },
        )
        y, state = _RULE([q, k, v, decay, beta, overlap, state], rule)
    simds = 4
    norm = Launch(
        threadgroups=-(-batch * tokens * layer.value_heads // simds),
        threads=SIMD * simds,
        outputs=[((batch, tokens, layer.value_dim), projected.dtype)],
        constants={
            "OutT": projected.dtype,
            "NV": layer.value_heads,
            "DV": layer.value_head_dim,
            "SIMDS": simds,
            "WIDTH": width,
            "FIRST": layer.channels,
            "EPS": float_bits(layer.eps),
        },
    )
    (y,) = _NORM([y, projected, layer.norm], norm)
    return y, conv, state


def _inputs_launch(
    projected: mx.array, conv: mx.array, layer: DeltaNetParameters, padded: bool
) -> Launch:
    batch, tokens, _ = projected.shape
    simds, run = 4, 16
    block = 2 * layer.key_head_dim
    blocks = layer.key_heads + -(-layer.value_dim // block)
    keys = (batch, tokens, layer.key_heads, layer.key_head_dim)
    values = (batch, tokens, layer.value_heads, layer.value_head_dim)
    return Launch(
        threadgroups=-(-batch * -(-tokens // run) * blocks // simds),
        threads=SIMD * simds,
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
            **_sizes(layer),
            "B": batch,
            "KERNEL": layer.kernel,
            "SIMDS": simds,
            "RUN": run,
            "PADDED": int(padded),
        },
    )


def _simds(parts: int, most: int) -> int:
    """SIMD groups of a threadgroup, so that `parts` of them divide evenly: a power of two."""
    while parts % most:
        most //= 2
    return most
