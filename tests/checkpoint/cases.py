"""Small checkpoints in every layout, made from the goldens, and the tensors to read from them."""

import copy
import json
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.errors import Qwen35Error

GOLDENS = Path(__file__).parent.parent / "goldens"

# Measuring takes longer than converting: `tests/test_convert_proof.py` tests it.
unmeasured = partial(convert, verify=False)

Tensors = dict[str, mx.array]

_STORED_DTYPES = {
    mx.uint8: "U8",
    mx.uint32: "U32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.float32: "F32",
}


@dataclass(frozen=True, slots=True)
class Raw:
    """A tensor of a dtype that MLX lacks, such as "F8_E4M3"."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def load(file: Path) -> Tensors:
    """A safetensors file, read by MLX."""
    loaded: Any = mx.load(str(file))
    return dict(loaded)


def golden(name: str = "dense") -> tuple[dict[str, Any], Tensors]:
    """config.json and tensors of a checkpoint in the published layout, all float32."""
    config = json.loads((GOLDENS / name / "config.json").read_text())
    tensors = load(GOLDENS / name / "model.safetensors")
    return config, {key: value.astype(mx.float32) for key, value in tensors.items()}


def canonical(tensors: Tensors) -> Tensors:
    """What must be read from `golden`'s tensors: the rules, implemented independently."""
    found: Tensors = {}
    experts: dict[str, dict[int, mx.array]] = {}
    for raw, value in tensors.items():
        name = raw.replace("model.language_model.", "model.")
        last = name.split(".")[-2]
        if name.endswith("conv1d.weight"):
            value = mx.moveaxis(value, 2, 1)
        elif last in ("q_norm", "k_norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden") or (
            last in ("input_layernorm", "post_attention_layernorm")
            or name in ("model.norm.weight", "mtp.norm.weight")
        ):
            value = value + 1
        single = re.fullmatch(r"(.*)experts\.(\d+)\.(.*)", name)
        if single:
            stack = experts.setdefault(f"{single[1]}switch_mlp.{single[3]}", {})
            stack[int(single[2])] = value
        elif name.endswith("experts.gate_up_proj"):
            base = name.replace("experts.gate_up_proj", "switch_mlp.")
            half = value.shape[1] // 2
            found[base + "gate_proj.weight"] = value[:, :half]
            found[base + "up_proj.weight"] = value[:, half:]
        elif name.endswith("experts.down_proj"):
            found[name.replace("experts", "switch_mlp") + ".weight"] = value
        else:
            found[name] = value
    for name, stack in experts.items():
        found[name] = mx.stack([stack[i] for i in range(len(stack))])
    return found


def one_by_one(tensors: Tensors) -> Tensors:
    """The same tensors with one tensor per expert."""
    found: Tensors = {}
    for name, value in tensors.items():
        base = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            half = value.shape[1] // 2
            for i, expert in enumerate(value):
                found[f"{base}.{i}.gate_proj.weight"] = expert[:half]
                found[f"{base}.{i}.up_proj.weight"] = expert[half:]
        elif name.endswith("experts.down_proj"):
            found |= {f"{base}.{i}.down_proj.weight": expert for i, expert in enumerate(value)}
        else:
            found[name] = value
    return found


def fused(tensors: Tensors) -> Tensors:
    """The same tensors with one tensor per stack of experts, also in the MTP head."""
    found = dict(tensors)
    bases = {m[1] for name in tensors if (m := re.fullmatch(r"(.*experts)\.0\..*", name))}
    for base in bases:
        parts = {
            projection: mx.stack(
                [
                    found.pop(f"{base}.{i}.{projection}.weight")
                    for i in range(
                        sum(bool(re.match(rf"{base}\.\d+\.{projection}", n)) for n in tensors)
                    )
                ]
            )
            for projection in ("gate_proj", "up_proj", "down_proj")
        }
        gate_up = mx.concatenate([parts["gate_proj"], parts["up_proj"]], axis=1)
        found |= {f"{base}.gate_up_proj": gate_up, f"{base}.down_proj": parts["down_proj"]}
    return found


def text_only(config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The layout of Qwen3_5ForCausalLM."""
    renamed = {n.replace("model.language_model.", "model."): v for n, v in tensors.items()}
    return copy.deepcopy(config["text_config"]), renamed


def mlx_layout(tensors: Tensors) -> Tensors:
    """mlx-lm's names and values, MTP head included."""
    return {f"language_model.{name}": value for name, value in canonical(tensors).items()}


def with_vision(tensors: Tensors) -> Tensors:
    return tensors | {
        "model.visual.blocks.0.norm1.weight": mx.ones((8,)),
        "model.visual.patch_embed.proj.weight": mx.ones((8, 3, 2, 4, 4)),
    }


def float8(
    config: dict[str, Any], tensors: Tensors, block: tuple[int, int] = (128, 128)
) -> tuple[dict[str, Any], dict[str, mx.array | Raw], Tensors]:
    """A float-8 checkpoint with block scales.

    Returns:
        config, the tensors to store, and their values (rounded to bfloat16, as float32).
    """
    config = copy.deepcopy(config)
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(block)}
    stored: dict[str, mx.array | Raw] = {}
    meant: Tensors = {}
    rng = np.random.default_rng(3)
    plain = ("lm_head", "embed_tokens", "conv1d", "in_proj_a", "in_proj_b", "mtp.fc", "gate.weight")
    for name, value in tensors.items():
        stored[name], meant[name] = value, value
        if value.ndim < 2 or any(part in name for part in plain):
            continue
        *stack, rows, columns = value.shape
        shape = (*stack, -(-rows // block[0]), -(-columns // block[1]))
        scales = rng.uniform(0.5, 2, shape).astype(np.float32) / 64
        wide = np.repeat(np.repeat(scales, block[0], -2), block[1], -1)[..., :rows, :columns]
        bits = np.array(mx.to_fp8(mx.array(np.array(value) / wide)))
        stored[name] = Raw("F8_E4M3", value.shape, bits.tobytes())
        stored[name + "_scale_inv"] = mx.array(scales)
        exact = mx.array(e4m3(bits) * wide)
        meant[name] = exact.astype(mx.bfloat16).astype(mx.float32)
    return config, stored, meant


def e4m3(bits: np.ndarray) -> np.ndarray:
    """Float-8 values by definition: 1 sign, 4 exponent (bias 7) and 3 mantissa bits, no inf."""
    exponent = (bits >> 3 & 15).astype(np.int32)
    mantissa = (bits & 7).astype(np.float32)
    normal = (1 + mantissa / 8) * np.exp2(exponent - 7.0)
    value = np.where(exponent > 0, normal, mantissa / 8 * np.exp2(-6.0))
    return (np.where(bits & 128, -1, 1) * value).astype(np.float32)


def save(path: Path, tensors: dict[str, mx.array | Raw] | Tensors) -> None:
    """Write a safetensors file without the code under test."""
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    begin = 0
    for name, value in tensors.items():
        if not isinstance(value, Raw):
            flat = np.asarray(mx.contiguous(value.reshape(-1)).view(mx.uint8))
            value = Raw(_STORED_DTYPES[value.dtype], value.shape, flat.tobytes())
        end = begin + len(value.data)
        header[name] = {"dtype": value.dtype, "shape": value.shape, "data_offsets": [begin, end]}
        chunks.append(value.data)
        begin = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))


def write(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, mx.array | Raw] | Tensors,
    *,
    files: int = 1,
    index: bool = True,
) -> Path:
    """Write a checkpoint folder, with placeholders for tokenizer and template."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text('{"model": "test"}')
    (path / "chat_template.jinja").write_text("{{ messages }}")
    names = sorted(tensors)
    owners: dict[str, str] = {}
    for i in range(files):
        part = names[i::files]
        file = (
            "model.safetensors" if files == 1 else f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        )
        save(path / file, {name: tensors[name] for name in part})  # pyright: ignore[reportArgumentType]
        owners |= dict.fromkeys(part, file)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": owners})
        (path / "model.safetensors.index.json").write_text(text)
    return path


def assert_reads(path: Path, expected: Tensors) -> Checkpoint:
    """Check that a checkpoint has exactly these tensors: names, shapes, dtypes and values."""
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    assert checkpoint.names() == set(expected)
    for name, value in expected.items():
        got = checkpoint.read(name)
        assert (name, got.shape) == (name, checkpoint.shape(name)) == (name, value.shape)
        assert got.dtype == checkpoint.dtype(name)
        assert mx.array_equal(got.astype(mx.float32), value.astype(mx.float32)), name
    return checkpoint


def refused(path: Path) -> str:
    """The one-line error of opening and verifying a checkpoint."""
    with pytest.raises(Qwen35Error) as caught:
        open_checkpoint(path).verify()
    message = str(caught.value)
    assert "\n" not in message
    assert "/" in message or "config.json" in message
    return message


def converted_weights(path: Path) -> Tensors:
    """All tensors of a conversion, by canonical name."""
    found: Tensors = {}
    for file in path.glob("*.safetensors"):
        found |= {n.removeprefix("language_model."): v for n, v in load(file).items()}
    return found


def listing(folder: Path) -> set[str]:
    """The names in a folder."""
    return {path.name for path in folder.iterdir()}


def demo_with_unmarked_head(folder: Path, *, raw: bool) -> Path:
    """A copy of the demo model whose head's file does not say how its norms are stored.

    Args:
        raw: whether they hold w; otherwise 1 + w.
    """
    shutil.copytree(demo.folder(), folder)
    (folder / "model.safetensors.index.json").unlink()  # it says that both are of one conversion
    path = folder / "mtp.safetensors"
    tensors, metadata = mx.load(str(path), return_metadata=True)  # type: ignore[misc, call-overload]
    assert metadata.pop("norms") == "w"
    shifted = {n: v + (0 if raw else 1) if "norm" in n else v for n, v in tensors.items()}
    mx.eval(shifted)  # before the file is replaced
    mx.save_safetensors(str(path), shifted, metadata)
    return folder
