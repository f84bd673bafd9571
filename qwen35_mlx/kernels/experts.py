"""A sparse MoE layer for a few tokens in three dispatches, or two, after the router's projection.

`route` finds the experts of each token; `run_experts` computes the RMS norm, the routed and shared
experts and the residual sum. `route_and_run_experts` does both in two dispatches.
`route_reference` and `experts_reference` are the definitions in plain MLX. Each matrix has a format
of its own: those of the routed experts and of the shared one share a dispatch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.matvec import swiglu
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import chunk_values, simd_groups_for
from qwen35_mlx.kernels.row_format import Matrix, RowFormat, dense, matrix_shape, row_arrays

# For `KernelSelection.experts_decode`.
THREE_DISPATCHES, TWO_DISPATCHES = "three dispatches", "two dispatches"
# Outputs of one token per threadgroup.
OUTPUTS_PER_THREADGROUP = 4
Outputs = Sequence[tuple[tuple[int, ...], mx.Dtype]]  # as `Launch.outputs`
# Bytes of x in threadgroup memory, at most: Metal allows 32 KB, of which sums take a little.
STAGED_BYTES = 28_000


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """All experts of a layer, each matrix in any format of `RowFormat`.

    Attributes:
        gate_up: [E, 2 I, H], gate rows first.
        down: [E, H, I].
        shared_gate_up: [2 IS, H], of the shared expert.
        shared_down: [H, IS].
        top_k: experts per token.
    """

    gate_up: Matrix
    down: Matrix
    shared_gate_up: Matrix
    shared_down: Matrix
    top_k: int

    @classmethod
    def from_matrices(cls, *weights: Matrix | None, top_k: int) -> "ExpertWeights | None":
        """The matrices in the order of the attributes; None if the kernels cannot read them."""
        read = [w for w in weights if w is not None and RowFormat.of(w) is not None]
        return cls(*read, top_k=top_k) if len(read) == 4 and top_k < SIMD_WIDTH else None

    @property
    def constants(self) -> dict[str, int]:
        """Sizes under their names in the kernel bodies."""
        experts, hidden, inner = matrix_shape(self.down)
        shared = matrix_shape(self.shared_down)[-1]
        return {"H": hidden, "E": experts, "I": inner, "IS": shared, "K": self.top_k}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A matrix of the routed experts and the shared expert's, for one launch.

    Attributes:
        routed, shared: their formats.
        arrays: the inputs of the kernel.
    """

    routed: RowFormat
    shared: RowFormat
    arrays: list[mx.array]

    @classmethod
    def of(cls, routed: Matrix, shared: Matrix, filler: mx.array) -> "_Pair":
        """Two matrices that kernels read, and an array for what their formats have not."""
        first, second = RowFormat.of(routed), RowFormat.of(shared)
        assert first is not None
        assert second is not None
        return cls(first, second, [*row_arrays(routed, filler), *row_arrays(shared, filler)])

    def simd_groups(self, width: int, itemsize: int) -> int:
        """Of a threadgroup, for rows of `width` values and inputs of `itemsize` bytes."""
        values = SIMD_WIDTH * max(chunk_values(f.bits) for f in (self.routed, self.shared))
        fit = STAGED_BYTES // itemsize // values
        return min(simd_groups_for(width, self.routed.bits), fit)

    @property
    def mixed(self) -> bool:
        """Whether the formats differ."""
        return self.routed != self.shared or self.arrays[1].dtype != self.arrays[4].dtype

    @property
    def constants(self) -> dict[str, int | mx.Dtype]:
        """The formats under their names in the kernel bodies."""
        return {
            **self.routed.constants("ROUTED_"),
            **self.shared.constants("SHARED_"),
            "RoutedScaleT": self.arrays[1].dtype,
            "SharedScaleT": self.arrays[4].dtype,
        }


_ROUTE = Kernel("experts_route", inputs=("logits",), outputs=("weights", "experts"))
_PACKED = ("w", "scales", "biases", "shared_w", "shared_scales", "shared_biases")


def _by_mixture(name: str, inputs: tuple[str, ...], *outputs: str) -> dict[bool, Kernel]:
    """A kernel by `_Pair.mixed`: MLX hashes its text at each launch, and one format needs less."""
    return {
        False: Kernel(name, inputs, outputs),
        True: Kernel(f"{name}_mixed", inputs, outputs),
    }


_UP = _by_mixture("experts_up", ("x", "norm_weight", "experts", *_PACKED), "h")
_ROUTED_UP = _by_mixture(
    "experts_up_routed", ("x", "norm_weight", "logits", *_PACKED), "h", "weights", "experts"
)
_DOWN = _by_mixture("experts_down", ("h", "experts", "weights", *_PACKED, "residual"), "y")


def route_reference(logits: mx.array, top_k: int) -> tuple[mx.array, mx.array]:
    """The experts of each token, from logits [N, E + 1], the last of which gates the shared expert.

    Returns:
        weights [N, k + 1] float32: those of the routed experts, which sum to 1, then the shared
        expert's; and the indices of the routed experts [N, k] uint32, in no particular order.
    """
    logits = logits.astype(mx.float32)
    probabilities = mx.softmax(logits[:, :-1], axis=-1)
    experts = mx.argpartition(-probabilities, kth=top_k - 1, axis=-1)[:, :top_k]
    chosen = mx.take_along_axis(probabilities, experts, axis=-1)
    chosen = chosen / mx.sum(chosen, axis=-1, keepdims=True)
    return mx.concatenate([chosen, mx.sigmoid(logits[:, -1:])], axis=-1), experts


def route(logits: mx.array, top_k: int) -> tuple[mx.array, mx.array]:
    """`route_reference` in one dispatch; experts ascending, of equal logits the lowest indices."""
    tokens, width = logits.shape
    launch = Launch(
        threadgroups=tokens,
        threads=SIMD_WIDTH,
        outputs=_routes(tokens, top_k),
        constants={"E": width - 1, "K": top_k},
    )
    weights, experts = _ROUTE([logits], launch)
    return weights, experts


def _routes(tokens: int, top_k: int) -> Outputs:
    """Weights and experts, as `route` returns them."""
    return [((tokens, top_k + 1), mx.float32), ((tokens, top_k), mx.uint32)]


def experts_reference(
    x: mx.array,
    norm: RMSNorm,
    weights: mx.array,
    experts: mx.array,
    layer: ExpertWeights,
    residual: mx.array,
) -> mx.array:
    """residual + the weighted sum of each token's experts and of the shared one, of norm(x).

    Args:
        x, residual: [N, H]
        weights, experts: from `route_reference`.

    Returns:
        [N, H] in x's dtype: float32 from norm(x) to the sum, which is rounded before the residual
        is added.
    """
    shared_gate_up = dense(layer.shared_gate_up, mx.float32)
    shared_down = dense(layer.shared_down, mx.float32)

    def glu(x: mx.array, gate_up: mx.array, down: mx.array) -> mx.array:
        gate, up = mx.split(gate_up @ x, 2)
        return down @ swiglu(gate, up)

    rows = []
    for n, row in enumerate(norm(x).astype(mx.float32)):
        total = weights[n, -1] * glu(row, shared_gate_up, shared_down)
        for k in range(layer.top_k):
            e = experts[n, k]
            gate_up, down = (dense(w[e], mx.float32) for w in (layer.gate_up, layer.down))
            total = total + weights[n, k] * glu(row, gate_up, down)
        rows.append(total)
    return residual + mx.stack(rows).astype(x.dtype)


def run_experts(
    x: mx.array,
    norm: RMSNorm,
    weights: mx.array,
    experts: mx.array,
    layer: ExpertWeights,
    residual: mx.array,
) -> mx.array:
    """`experts_reference` in two dispatches, for a few tokens.

    A token's result is the same to the bit with others beside it: each has threadgroups of its own.
    They do not share what they read in registers, since there is little to share: of the 32 experts
    that 4 tokens of a 35B-A3B choose, 30 differ where choices are independent. What they do share,
    a cache holds.
    """
    up = _Pair.of(layer.gate_up, layer.shared_gate_up, x)
    (h,) = _UP[up.mixed]([x, norm.weight, experts, *up.arrays], _up_launch(up, x, norm, layer))
    return _down(h, weights, experts, layer, residual)


def route_and_run_experts(
    x: mx.array, norm: RMSNorm, logits: mx.array, layer: ExpertWeights, residual: mx.array
) -> mx.array:
    """`run_experts` of what `route` finds in `logits`, in two dispatches: the same to the bit."""
    up = _Pair.of(layer.gate_up, layer.shared_gate_up, x)
    launch = _up_launch(up, x, norm, layer)
    launch = replace(launch, outputs=[*launch.outputs, *_routes(x.shape[0], layer.top_k)])
    h, weights, experts = _ROUTED_UP[up.mixed]([x, norm.weight, logits, *up.arrays], launch)
    return _down(h, weights, experts, layer, residual)


def _up_launch(pair: _Pair, x: mx.array, norm: RMSNorm, layer: ExpertWeights) -> Launch:
    sizes = layer.constants
    width = sizes["K"] * sizes["I"] + sizes["IS"]
    more = {"NormT": norm.weight.dtype, "EPS": float_bits(norm.eps)}
    shape = x.shape[0], width, sizes["H"]
    return _launch(pair, layer, shape, x.dtype, mx.float32, more)


def _down(
    h: mx.array, weights: mx.array, experts: mx.array, layer: ExpertWeights, residual: mx.array
) -> mx.array:
    pair = _Pair.of(layer.down, layer.shared_down, residual)
    tokens, hidden = residual.shape
    launch = _launch(pair, layer, (tokens, hidden, h.shape[1]), residual.dtype, residual.dtype)
    (y,) = _DOWN[pair.mixed]([h, experts, weights, *pair.arrays, residual], launch)
    return y


def _launch(
    pair: _Pair,
    layer: ExpertWeights,
    shape: tuple[int, int, int],
    dtype: mx.Dtype,
    out_dtype: mx.Dtype,
    more: Mapping[str, int | mx.Dtype] = MappingProxyType({}),
) -> Launch:
    """Of a product with two matrices.

    Args:
        shape: tokens, outputs of each, and values of a row.
        dtype: of the layer's input.
        out_dtype: of the outputs.
        more: constants.
    """
    tokens, out, width = shape
    simd_groups = pair.simd_groups(width, dtype.size)
    return Launch(
        threadgroups=tokens * -(-out // OUTPUTS_PER_THREADGROUP),
        threads=SIMD_WIDTH * simd_groups,
        outputs=[((tokens, out), out_dtype)],
        constants={
            "InT": dtype,
            **layer.constants,
            **pair.constants,
            "OUTPUTS": OUTPUTS_PER_THREADGROUP,
            "SIMD_GROUPS": simd_groups,
            **more,
        },
    )
