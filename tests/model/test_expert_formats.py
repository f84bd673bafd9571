"""A sparse layer whose matrices are packed in several formats, against float64."""

from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import experts, quantized
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model import moe
from qwen35_mlx.model.moe import BLOCKS_FROM, SparseMoE
from qwen35_mlx.model.weight_shapes import trunk_tensors
from qwen35_mlx.model.weights import Weights
from tests.goldens import network
from tests.kernels.cases import hadamard

CONFIG = replace(network("moe").config, shared_expert_intermediate_size=64)
PREFIX = "model.layers.0.mlp."
FOUR = Quantization(32, 4)
MATRICES = {
    name.removeprefix(PREFIX).removesuffix(".weight"): shape
    for name, shape in trunk_tensors(CONFIG).items()
    if name.startswith(PREFIX)
}


@dataclass(frozen=True, slots=True)
class Source:
    """Random matrices of a layer, packed as `formats` says, the others plain."""

    formats: dict[str, Quantization]
    rotations: dict[str, HadamardRotation] = field(default_factory=dict)
    tensors: dict[str, mx.array] = field(default_factory=dict)
    plain: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        for module, shape in MATRICES.items():
            value = mx.array(rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32))
            if q := self.formats.get(module):
                packed = mx.quantize(value, q.group_size, q.bits, q.mode)
                parts = dict(zip(("weight", "scales", "biases"), packed, strict=False))
                self.tensors.update({f"{PREFIX}{module}.{n}": part for n, part in parts.items()})
                value = mx.dequantize(
                    *packed[:2], parts.get("biases"), q.group_size, q.bits, q.mode
                )
            else:
                self.tensors[f"{PREFIX}{module}.weight"] = value
            plain = np.array(value.astype(mx.float32), np.float64)
            if r := self.rotations.get(module):
                plain = hadamard(plain, r.block) * np.array(r.signs)
            self.plain[module] = plain

    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)

    def read(self, name: str) -> mx.array:
        return self.tensors[name]

    def quantization(self, module: str) -> Quantization | None:
        return self.formats.get(module.removeprefix(PREFIX))

    def rotation(self, module: str) -> HadamardRotation | None:
        return self.rotations.get(module.removeprefix(PREFIX))


def layer(source: Source) -> SparseMoE:
    return SparseMoE(CONFIG, Weights(CONFIG, source).scope("model.layers.0.mlp"))


def float64(x: np.ndarray, plain: dict[str, np.ndarray]) -> np.ndarray:
    """The layer of rows x [N, hidden] that are normed already."""

    def glu(row: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        a = gate @ row
        return down @ (a / (1 + np.exp(-a)) * (up @ row))

    def part(module: str, name: str) -> np.ndarray:
        return plain[f"{module}.{name}_proj"]

    rows = []
    for row in x:
        scores = plain["gate"] @ row
        best = np.argsort(-scores)[: CONFIG.num_experts_per_tok]
        weights = np.exp(scores[best] - scores[best].max())
        shared = glu(row, *(part("shared_expert", n) for n in ("gate", "up", "down")))
        total = shared / (1 + np.exp(-(plain["shared_expert_gate"] @ row)))
        for e, weight in zip(best, weights / weights.sum(), strict=True):
            routed = (part("switch_mlp", n)[e] for n in ("gate", "up", "down"))
            total = total + weight * glu(row, *routed)
        rows.append(total)
    return np.stack(rows)


def every(quantization: Quantization, **others: Quantization) -> dict[str, Quantization]:
    return {
        module: others.get(module.split(".")[-1], quantization)
        for module in MATRICES
        if "proj" in module
    }


FORMATS = {
    "nvfp4": every(Quantization(16, 4, "nvfp4")),
    "mxfp4": every(Quantization(32, 4, "mxfp4")),
    "mxfp8 and nvfp4": every(Quantization(32, 8, "mxfp8"), down_proj=Quantization(16, 4, "nvfp4")),
    "three bits and four": every(Quantization(32, 4), gate_proj=Quantization(32, 3)),
    "five bits and eight": every(Quantization(32, 8), up_proj=Quantization(32, 5)),
    "one bit": every(Quantization(32, 1)),
    "plain beside packed": {"switch_mlp.up_proj": FOUR, "shared_expert.down_proj": FOUR},
}


def check(block: SparseMoE, source: Source, tokens: int) -> None:
    x = mx.array(np.random.default_rng(1).standard_normal((1, tokens, CONFIG.hidden_size)))
    x = x.astype(mx.float32)
    norm = RMSNorm(mx.ones((CONFIG.hidden_size,)), 1e-6)
    rows = np.array(norm(x), np.float64)[0]
    got = np.array(block(x, norm, x))[0]
    np.testing.assert_allclose(got, np.array(x)[0] + float64(rows, source.plain), atol=2e-5)


MANY = BLOCKS_FROM * CONFIG.num_experts // CONFIG.num_experts_per_tok + 1


@pytest.mark.parametrize("tokens", [1, MANY])
@pytest.mark.parametrize("formats", FORMATS)
def test_every_mixture_of_formats(formats, tokens):
    source = Source(FORMATS[formats])
    block = layer(source)
    check(block, source, tokens)
    if tokens == MANY:
        block.selection.experts_prefill = quantized.UNPACKED
        check(block, source, tokens)


EIGHT, SIX = Quantization(64, 8), Quantization(32, 6)
KERNEL_FORMATS = {
    "more bits in some": every(FOUR)
    | {"switch_mlp.down_proj": SIX}
    | {f"shared_expert.{n}_proj": EIGHT for n in ("gate", "up", "down")},
    "plain shared expert": {
        f"switch_mlp.{n}_proj": Quantization(16, 4, "nvfp4") for n in ("gate", "up", "down")
    },
}


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("formats", KERNEL_FORMATS)
@pytest.mark.parametrize(
    ("variant", "function"),
    [
        (experts.THREE_DISPATCHES, "run_experts"),
        (experts.TWO_DISPATCHES, "route_and_run_experts"),
    ],
)
def test_the_decode_kernels_read_every_matrix_in_its_own_format(
    variant, function, formats, monkeypatch
):
    source = Source(KERNEL_FORMATS[formats])
    block = layer(source)
    assert block.packed is not None
    block.selection.select("experts_decode", variant, block.packing)
    runs, run = [], getattr(moe, function)
    monkeypatch.setattr(moe, function, lambda *inputs: runs.append(1) or run(*inputs))
    check(block, source, 2)
    assert runs


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("module", [None, "shared_expert.up_proj", "switch_mlp.down_proj"])
def test_the_decode_kernels_are_not_used_where_an_input_is_rotated(module):
    formats = every(FOUR)
    width = MATRICES[module][-1] if module else 0
    signs = mx.where(mx.arange(width) % 3, 1.0, -1.0)
    source = Source(formats, {module: HadamardRotation(width, signs)} if module else {})
    block = layer(source)
    block.selection.select("experts_decode", experts.TWO_DISPATCHES, block.packing)
    assert (block.packed is None) == (module is not None)
    check(block, source, 2)
