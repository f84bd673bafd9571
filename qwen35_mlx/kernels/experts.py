"""A sparse MoE block for a few tokens in three dispatches, after the router's projection.

`route_reference` and `experts_reference` are the definitions in plain MLX. The kernels read affine
4- and 8-bit weights; the shared expert rides along with the routed ones.
"""

from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels.portable import SIMD, Kernel, Launch, Launcher

STEP_TOKENS = 8
# Values per SIMD group, and SIMD groups per threadgroup.
ROWS = 4
SIMDS = 4


@dataclass(frozen=True, slots=True)
class Packed:
    """Affine-quantised matrices [..., out, in] as `mx.quantize` packs them."""

    weight: mx.array
    scales: mx.array
    biases: mx.array

    def dot(self, x: mx.array, group_size: int, bits: int) -> mx.array:
        """x [..., in] -> [..., out] float32, for a single matrix."""
        w = mx.dequantize(self.weight, self.scales, self.biases, group_size, bits)
        return x.astype(mx.float32) @ w.astype(mx.float32).swapaxes(-1, -2)


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """All experts of one layer, in one format.

    Attributes:
        gate_up: [E, 2 I, H], gate rows first; down: [E, H, I].
        shared_gate_up: [2 IS, H]; shared_down: [H, IS].
        top_k: experts per token.
    """

    gate_up: Packed
    down: Packed
    shared_gate_up: Packed
    shared_down: Packed
    top_k: int
    group_size: int
    bits: int

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
            "BITS": self.bits,
            "GS": self.group_size,
        }


_ROUTE = Kernel("route", inputs=("logits",), outputs=("weights", "experts"))
_PACKED = ("w", "scales", "biases", "shared_w", "shared_scales", "shared_biases")
_UP = Kernel("experts_up", inputs=("x", "experts", *_PACKED), outputs=("h",))
_DOWN = Kernel("experts_down", inputs=("h", "experts", "weights", *_PACKED), outputs=("y",))


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


def route(
    logits: mx.array, top_k: int, launcher: Launcher | None = None
) -> tuple[mx.array, mx.array]:
    """`route_reference` in one dispatch, likeliest first; equals go to the lower index."""
    tokens, width = logits.shape
    launch = Launch(
        threadgroups=tokens,
        threads=SIMD,
        outputs=[((tokens, top_k + 1), mx.float32), ((tokens, top_k), mx.uint32)],
        constants={"E": width - 1, "K": top_k},
    )
    weights, experts = _ROUTE([logits], launch, launcher)
    return weights, experts


def experts_reference(
    x: mx.array, weights: mx.array, experts: mx.array, layer: ExpertWeights
) -> mx.array:
    """x [N, H] through its experts and the shared one, weighted and summed -> [N, H].

    float32 between reading x and writing the result.
    """

    def glu(x: mx.array, gate_up: Packed, down: Packed) -> mx.array:
        gate, up = mx.split(gate_up.dot(x, layer.group_size, layer.bits), 2, axis=-1)
        return down.dot(gate * mx.sigmoid(gate) * up, layer.group_size, layer.bits)

    def one(packed: Packed, index: mx.array) -> Packed:
        return Packed(packed.weight[index], packed.scales[index], packed.biases[index])

    rows = []
    for n in range(x.shape[0]):
        row = weights[n, -1] * glu(x[n], layer.shared_gate_up, layer.shared_down)
        for k in range(layer.top_k):
            e = experts[n, k]
            row = row + weights[n, k] * glu(x[n], one(layer.gate_up, e), one(layer.down, e))
        rows.append(row)
    return mx.stack(rows).astype(x.dtype)


def run_experts(
    x: mx.array,
    weights: mx.array,
    experts: mx.array,
    layer: ExpertWeights,
    launcher_up: Launcher | None = None,
    launcher_down: Launcher | None = None,
) -> mx.array:
    """`experts_reference` in two dispatches, for a few tokens."""
    tokens, hidden = x.shape
    sizes = layer.constants
    inner = sizes["K"] * sizes["I"] + sizes["IS"]
    constants = {**sizes, "N": tokens, "ROWS": ROWS, "SIMDS": SIMDS}

    def launch(out: int, dtype: mx.Dtype) -> Launch:
        blocks = tokens * -(-out // ROWS)
        return Launch(
            threadgroups=-(-blocks // SIMDS),
            threads=SIMD * SIMDS,
            outputs=[((tokens, out), dtype)],
            constants={"InT": x.dtype, **constants},
        )

    def packed(routed: Packed, shared: Packed) -> list[mx.array]:
        return [a for p in (routed, shared) for a in (p.weight, p.scales, p.biases)]

    (h,) = _UP(
        [x, experts, *packed(layer.gate_up, layer.shared_gate_up)],
        launch(inner, mx.float32),
        launcher_up,
    )
    (y,) = _DOWN(
        [h, experts, weights, *packed(layer.down, layer.shared_down)],
        launch(hidden, x.dtype),
        launcher_down,
    )
    return y
