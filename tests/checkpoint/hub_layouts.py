"""Checkpoints as repositories of the Hub publish them, with small sizes and random tensors.

A layout is a file in tests/checkpoint/hub_layouts. Its config.json has the keys, the nesting and
the odd fields of the published one; `origin` is what of it was seen in public text and what was
composed. The other fields give the names and the dtypes of the tensors:

- `names`: "published" (`model.language_model.`) or "mlx" (`language_model.model.`);
- `experts`, `mtp_experts`: "fused" or "one by one";
- `float32`: endings of the names of tensors stored in float32, all others are bfloat16;
- `quantized`: patterns of modules, as stored, and how they are packed (`PACKINGS`);
- `vision`, `mtp`: whether there are tensors of a vision tower and of an MTP head;
- `files`: further JSON files of the folder.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from tests.checkpoint.cases import Raw, Tensors, one_by_one, write

FOLDER = Path(__file__).parent / "hub_layouts"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))

Stored = dict[str, mx.array | Raw]
Packing = Callable[[str, np.ndarray, np.random.Generator, dict[str, Any]], Stored]

_EXPERT_STACK = re.compile(r"(.+\.mlp)\.switch_mlp\.(gate|up|down)_proj\.weight")


@dataclass(frozen=True, slots=True)
class HubLayout:
    """A layout, read from its file."""

    name: str
    repository: str
    origin: str
    names: str
    experts: str
    mtp_experts: str
    float32: tuple[str, ...]
    vision: bool
    mtp: bool
    quantized: dict[str, str]
    files: dict[str, dict[str, Any]]
    config: dict[str, Any]


def read_layout(name: str) -> HubLayout:
    fields = json.loads((FOLDER / f"{name}.json").read_text())
    fields["float32"] = tuple(fields["float32"])
    return HubLayout(name=name, **fields)


def model_config(layout: HubLayout) -> ModelConfig:
    """The sizes of a layout. A model type of its own counts as the base type that it names."""
    config = layout.config
    return ModelConfig.from_dict(
        {**config, "model_type": config.get("base_model_type", config["model_type"])}
    )


def canonical_tensors(layout: HubLayout, seed: int = 0) -> Tensors:
    """Random tensors by canonical name, as they are read from a plain checkpoint: norms are 1 + w.

    They have the dtype in which they are stored; norms that are stored as w are float32.
    """
    sizes = model_config(layout)
    shapes = trunk_tensors(sizes) | (mtp_tensors(sizes) if layout.mtp else {})
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in shapes.items():
        value = mx.array(_draw(name, shape, rng))
        stored = mx.float32 if name.endswith(_endings(layout)) else mx.bfloat16
        if _is_zero_centred(name) and layout.names != "mlx":
            tensors[name] = (value - 1).astype(mx.bfloat16).astype(mx.float32) + 1
        else:
            tensors[name] = value.astype(stored)
    return tensors


def stored_tensors(layout: HubLayout, canonical: Tensors, seed: int = 1) -> Stored:
    """The tensors of a repository by the names in its files; packed ones have random codes."""
    rng = np.random.default_rng(seed)
    if layout.names == "mlx":
        plain = {f"language_model.{name}": value for name, value in canonical.items()}
    else:
        plain = _published(canonical, layout)
    found: Stored = {}
    for name, value in plain.items():
        how = next((how for p, how in layout.quantized.items() if re.search(p, name)), None)
        if how is None or value.ndim < 2:
            found[name] = value
        else:
            array = np.array(value.astype(mx.float32))
            module = name.removesuffix(".weight")
            found |= PACKINGS[how](module, array, rng, layout.config)
    if layout.vision:
        prefix = "vision_tower." if layout.names == "mlx" else "model.visual."
        found[f"{prefix}patch_embed.proj.bias"] = mx.zeros((8,), mx.bfloat16)
        found[f"{prefix}blocks.0.norm1.weight"] = mx.ones((8,), mx.bfloat16)
        found[f"{prefix}merger.linear_fc1.weight"] = mx.ones((8, 32), mx.bfloat16)
    return found


def write_layout(path: Path, layout: HubLayout, tensors: Stored, *, files: int = 2) -> Path:
    """The folder of a repository: config.json, weights, index and further files."""
    write(path, layout.config, tensors, files=files)
    for name, content in layout.files.items():
        (path / name).write_text(json.dumps(content))
    return path


def _endings(layout: HubLayout) -> tuple[str, ...]:
    return tuple(e + suffix for e in layout.float32 for suffix in ("", ".weight"))


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("A_log"):
        return rng.uniform(-5, 0.5, shape).astype(np.float32)
    if name.endswith("dt_bias"):
        return rng.uniform(-4, 1, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.normal(1, 0.2, shape).astype(np.float32)
    scale = 0.4 if "conv1d" in name else shape[-1] ** -0.5
    return rng.normal(0, scale, shape).astype(np.float32)


def _is_zero_centred(name: str) -> bool:
    last = name.split(".")[-2] if name.endswith(".weight") else ""
    return last.endswith(("norm", "layernorm", "embedding", "hidden")) and (
        "linear_attn" not in name and "embed_tokens" not in name
    )


def _published(canonical: Tensors, layout: HubLayout) -> Tensors:
    """The tensors under the names that Hugging Face has for them."""
    trunk: Tensors = {}
    head: Tensors = {}
    for name, value in canonical.items():
        into = head if name.startswith("mtp.") else trunk
        if name.startswith("model."):
            name = "model.language_model." + name.removeprefix("model.")
        if _is_zero_centred(name):
            value = (value - 1).astype(mx.bfloat16)
        elif name.endswith("conv1d.weight"):
            value = mx.moveaxis(value, 1, 2)
        match = _EXPERT_STACK.fullmatch(name)
        if match is None:
            into[name] = value
        elif match[2] == "down":
            into[f"{match[1]}.experts.down_proj"] = value
        elif match[2] == "gate":
            up = canonical[name.replace("language_model.", "").replace("gate_proj", "up_proj")]
            into[f"{match[1]}.experts.gate_up_proj"] = mx.concatenate([value, up], axis=1)
    trunk = one_by_one(trunk) if layout.experts == "one by one" else trunk
    head = one_by_one(head) if layout.mtp_experts == "one by one" else head
    return trunk | head


def _bytes(rng: np.random.Generator, dtype: str, *shape: int) -> Raw:
    """A tensor of random bits, of a dtype that MLX lacks."""
    size = {"I32": 4, "F8_E4M3": 1, "U8": 1}[dtype]
    bits = rng.integers(0, 256, (*shape, size), np.uint8)
    if dtype == "F8_E4M3":
        bits[(bits & 127) == 127] = 0  # no NaN
    return Raw(dtype, shape, bits.tobytes())


def _float8_blocks(module: str, value: np.ndarray, rng: np.random.Generator, _: Any) -> Stored:
    rows, columns = value.shape
    scales = rng.uniform(0.5, 2, (-(-rows // 128), -(-columns // 128))).astype(np.float32) / 64
    wide = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:rows, :columns]
    bits = np.array(mx.to_fp8(mx.array(value / wide)))
    return {
        f"{module}.weight": Raw("F8_E4M3", value.shape, bits.tobytes()),
        f"{module}.weight_scale_inv": mx.array(scales).astype(mx.bfloat16),
    }


def _mlx(module: str, value: np.ndarray, _: Any, config: dict[str, Any]) -> Stored:
    entry = config["quantization"] | config["quantization"].get(module, {})
    packed = mx.quantize(mx.array(value), group_size=entry["group_size"], bits=entry["bits"])
    parts = zip(("weight", "scales", "biases"), packed, strict=True)
    return {
        f"{module}.{part}": v if part == "weight" else v.astype(mx.bfloat16) for part, v in parts
    }


def _hadamard(module: str, value: np.ndarray, rng: np.random.Generator, config: Any) -> Stored:
    signs = mx.array(rng.choice([-1.0, 1.0], value.shape[-1]).astype(np.float32))
    return _mlx(module, value, rng, config) | {f"{module}.signs": signs}


def _gptq(module: str, value: np.ndarray, rng: np.random.Generator, config: Any) -> Stored:
    rows, columns = value.shape
    group = config["quantization_config"]["group_size"]
    order = (np.arange(columns) // group).astype(np.int32)
    assert config["quantization_config"]["sym"]  # zero points of 8, stored less one
    zeros = np.full((columns // group, rows // 8), 0x77777777, np.int32)
    return {
        f"{module}.qweight": _bytes(rng, "I32", columns // 8, rows),
        f"{module}.qzeros": Raw("I32", zeros.shape, zeros.tobytes()),
        f"{module}.scales": _scales(rng, columns // group, rows),
        f"{module}.g_idx": Raw("I32", (columns,), order.tobytes()),
    }


def _awq(module: str, value: np.ndarray, rng: np.random.Generator, config: Any) -> Stored:
    rows, columns = value.shape
    group = config["quantization_config"]["group_size"]
    return {
        f"{module}.qweight": _bytes(rng, "I32", columns, rows // 8),
        f"{module}.qzeros": _bytes(rng, "I32", columns // group, rows // 8),
        f"{module}.scales": _scales(rng, columns // group, rows),
    }


def _modelopt_fp8(module: str, value: np.ndarray, rng: np.random.Generator, _: Any) -> Stored:
    return {
        f"{module}.weight": _bytes(rng, "F8_E4M3", *value.shape),
        f"{module}.weight_scale": mx.array(1e-3),
        f"{module}.input_scale": mx.array(1.0),
    }


def _modelopt_nvfp4(module: str, value: np.ndarray, rng: np.random.Generator, _: Any) -> Stored:
    rows, columns = value.shape
    scales = np.array(mx.to_fp8(mx.array(rng.uniform(1, 8, (rows, columns // 16)))))
    return {
        f"{module}.weight": _bytes(rng, "U8", rows, columns // 2),
        f"{module}.weight_scale": Raw("F8_E4M3", scales.shape, scales.tobytes()),
        f"{module}.weight_scale_2": mx.array(1e-2),
        f"{module}.input_scale": mx.array(1.0),
    }


def _scales(rng: np.random.Generator, *shape: int) -> mx.array:
    return mx.array(rng.uniform(1, 2, shape) / 128).astype(mx.float16)


PACKINGS: dict[str, Packing] = {
    "fp8 blocks": _float8_blocks,
    "mlx": _mlx,
    "hadamard": _hadamard,
    "gptq": _gptq,
    "awq": _awq,
    "modelopt fp8": _modelopt_fp8,
    "modelopt nvfp4": _modelopt_nvfp4,
}
