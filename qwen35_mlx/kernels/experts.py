"""A sparse MoE block for a few tokens in three dispatches, after the router's projection.

The norm before the block is taken in; the router's projection has to see to its own.
`route_reference` and `experts_reference` are the definitions in plain MLX. The kernels read affine
4- and 8-bit weights; the shared expert rides along with the routed ones.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.gpu_kernel import SIMD, Kernel, Launch, float_bits
from qwen35_mlx.kernels.matvec import swiglu
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight, simds_for

STEP_TOKENS = 8
# For `KernelSelection.experts_decode`.
KERNEL = "three dispatches"
# Values per threadgroup.
ROWS = 4


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """All experts of one layer, in one affine format of 4 or 8 bits.

    Attributes:
        gate_up: [E, 2 I, H], gate rows first; down: [E, H, I].
        shared_gate_up: [2 IS, H]; shared_down: [H, IS].
        top_k: experts per token.
    """

    gate_up: QuantizedWeight
    down: QuantizedWeight
    shared_gate_up: QuantizedWeight
    shared_down: QuantizedWeight
    top_k: int

    @classmethod
    def of(cls, *weights: object, top_k: int) -> "ExpertWeights | None":
        """These four, if the kernels can read them."""
        packed = [w for w in weights if isinstance(w, QuantizedWeight)]
        formats = {(w.quantization, w.scales.dtype) for w in packed}
        if len(packed) != 4 or len(formats) != 1 or top_k >= SIMD:
            return None
        how = packed[0].quantization
        if how.mode != "affine" or how.bits not in (4, 8):
            return None
        return cls(*packed, top_k=top_k)

    @property
    def quantization(self) -> Quantization:
        return self.gate_up.quantization

    @property
    def constants(self) -> dict[str, int]:
        """The sizes as the kernels name them."""
        experts, both, _ = self.gate_up.scales.shape
        return {
            "H": self.down.scales.shape[1],
            "E": experts,
            "I": both // 2,
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
    """The router: logits [N, E + 1], the last one the shared expert's gate.

    Returns:
        weights [N, k + 1] float32, those of the routed experts summing to 1, then the shared
        expert's; and the routed experts' indices [N, k] uint32, in no particular order.
    """
    logits = logits.astype(mx.float32)
    probabilities = mx.softmax(logits[:, :-1], axis=-1)
    experts = mx.argpartition(-probabilities, kth=top_k - 1, axis=-1)[:, :top_k]
    chosen = mx.take_along_axis(probabilities, experts, axis=-1)
    chosen = chosen / mx.sum(chosen, axis=-1, keepdims=True)
    return mx.concatenate([chosen, mx.sigmoid(logits[:, -1:])], axis=-1), experts


def route(logits: mx.array, top_k: int) -> tuple[mx.array, mx.array]:
    """`route_reference` in one dispatch, likeliest first; equals go to the lower index."""
    tokens, width = logits.shape
    launch = Launch(
        threadgroups=tokens,
        threads=SIMD,
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
    """norm(x) through each token's experts and the shared one, weighted and summed, onto residual.

    x, residual [N, H]; float32 between reading norm(x) and rounding the sum, to which residual is
    added.
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
    """`experts_reference` in two dispatches, for a few tokens."""
    tokens, hidden = x.shape
    sizes = layer.constants
    inner = sizes["K"] * sizes["I"] + sizes["IS"]

    def launch(out: int, width: int, dtype: mx.Dtype, **more: int) -> Launch:
        simds = simds_for(width, sizes["BITS"])
        return Launch(
            threadgroups=tokens * -(-out // ROWS),
            threads=SIMD * simds,
            outputs=[((tokens, out), dtype)],
            constants={"InT": x.dtype, **sizes, "ROWS": ROWS, "SIMDS": simds, **more},
        )

    def packed(routed: QuantizedWeight, shared: QuantizedWeight) -> list[mx.array]:
        return [*routed.arrays, *shared.arrays]

    (h,) = _UP(
        [x, norm.weight, experts, *packed(layer.gate_up, layer.shared_gate_up)],
        launch(inner, hidden, mx.float32, EPS=float_bits(norm.eps)),
    )
    (y,) = _DOWN(
        [h, experts, weights, *packed(layer.down, layer.shared_down), residual],
        launch(hidden, inner, x.dtype),
    )
    return y
