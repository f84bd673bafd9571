"""A sparse MoE layer for a few tokens in three dispatches, after the router's projection.

`route` finds the experts of each token; `run_experts` computes the RMS norm, the routed and shared
experts and the residual sum. `route_reference` and `experts_reference` are their definitions in
plain MLX. The kernels read affine 4- and 8-bit weights.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH, Kernel, Launch, float_bits
from qwen35_mlx.kernels.matvec import swiglu
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight, simd_groups_for

# For `KernelSelection.experts_decode`.
KERNEL = "three dispatches"
# Outputs of one token per threadgroup.
OUTPUTS_PER_THREADGROUP = 4


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """All experts of a layer, in one affine format of 3 to 6 or 8 bits.

    Attributes:
        gate_up: [E, 2 I, H], gate rows first.
        down: [E, H, I].
        shared_gate_up: [2 IS, H], of the shared expert.
        shared_down: [H, IS].
        top_k: experts per token.
    """

    gate_up: QuantizedWeight
    down: QuantizedWeight
    shared_gate_up: QuantizedWeight
    shared_down: QuantizedWeight
    top_k: int

    @classmethod
    def from_matrices(cls, *weights: object, top_k: int) -> "ExpertWeights | None":
        """The matrices in the order of the attributes; None if the kernels cannot read them."""
        packed = [w for w in weights if isinstance(w, QuantizedWeight)]
        formats = {(w.quantization, *(array.dtype for array in w.arrays)) for w in packed}
        if len(packed) != 4 or len(formats) != 1 or top_k >= SIMD_WIDTH:
            return None
        quantization = packed[0].quantization
        if quantization.mode != "affine" or quantization.bits not in (3, 4, 5, 6, 8):
            return None
        return cls(*packed, top_k=top_k)

    @property
    def quantization(self) -> Quantization:
        return self.gate_up.quantization

    @property
    def constants(self) -> dict[str, int]:
        """Sizes under their names in the kernel bodies."""
        experts, gate_up_rows, _ = self.gate_up.scales.shape
        return {
            "H": self.down.scales.shape[1],
            "E": experts,
            "I": gate_up_rows // 2,
            "IS": self.shared_gate_up.scales.shape[0] // 2,
            "K": self.top_k,
            "BITS": self.quantization.bits,
            "GS": self.quantization.group_size,
        }


_ROUTE = Kernel("experts_route", inputs=("logits",), outputs=("weights", "experts"))
_PACKED = ("w", "scales", "biases", "shared_w", "shared_scales", "shared_biases")
_UP = Kernel("experts_up", inputs=("x", "norm_weight", "experts", *_PACKED), outputs=("h",))
_DOWN = Kernel(
    "experts_down", inputs=("h", "experts", "weights", *_PACKED, "residual"), outputs=("y",)
)


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
        outputs=[((tokens, top_k + 1), mx.float32), ((tokens, top_k), mx.uint32)],
        constants={"E": width - 1, "K": top_k},
    )
    weights, experts = _ROUTE([logits], launch)
    return weights, experts


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
    shared_gate_up = layer.shared_gate_up.dequantized(mx.float32)
    shared_down = layer.shared_down.dequantized(mx.float32)

    def glu(x: mx.array, gate_up: mx.array, down: mx.array) -> mx.array:
        gate, up = mx.split(gate_up @ x, 2)
        return down @ swiglu(gate, up)

    rows = []
    for n, row in enumerate(norm(x).astype(mx.float32)):
        total = weights[n, -1] * glu(row, shared_gate_up, shared_down)
        for k in range(layer.top_k):
            e = experts[n, k]
            gate_up, down = (w[e].dequantized(mx.float32) for w in (layer.gate_up, layer.down))
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
    tokens, hidden = x.shape
    sizes = layer.constants
    intermediate = sizes["K"] * sizes["I"] + sizes["IS"]

    def launch(out: int, width: int, dtype: mx.Dtype, **more: int | mx.Dtype) -> Launch:
        simd_groups = simd_groups_for(width, sizes["BITS"])
        return Launch(
            threadgroups=tokens * -(-out // OUTPUTS_PER_THREADGROUP),
            threads=SIMD_WIDTH * simd_groups,
            outputs=[((tokens, out), dtype)],
            constants={
                "InT": x.dtype,
                **sizes,
                "OUTPUTS": OUTPUTS_PER_THREADGROUP,
                "SIMD_GROUPS": simd_groups,
                **more,
            },
        )

    def packed(routed: QuantizedWeight, shared: QuantizedWeight) -> list[mx.array]:
        return [*routed.arrays, *shared.arrays]

    (h,) = _UP(
        [x, norm.weight, experts, *packed(layer.gate_up, layer.shared_gate_up)],
        launch(
            intermediate,
            hidden,
            mx.float32,
            NormT=norm.weight.dtype,
            EPS=float_bits(norm.eps),
        ),
    )
    (y,) = _DOWN(
        [h, experts, weights, *packed(layer.down, layer.shared_down), residual],
        launch(hidden, intermediate, x.dtype),
    )
    return y
