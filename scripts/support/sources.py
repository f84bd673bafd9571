"""Checkpoints of any size in the forms that people have, of random bytes: for the converter.

A writer needs names, shapes and dtypes alone. The shapes are those of a mixture of experts whose
largest tensor, a stack of gate and up projections, takes 537 MB in bfloat16.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import qwen35_mlx.demo
from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from scripts.support.noise import pieces

SHARD_BYTES = 1 << 30

TEXT_CONFIG: Mapping[str, Any] = {
    "hidden_size": 2048,
    "full_attention_interval": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "vocab_size": 65536,
    "max_position_embeddings": 4096,
    "mtp_num_hidden_layers": 1,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "dtype": "bfloat16",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
}
TINY: Mapping[str, Any] = {
    "hidden_size": 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "vocab_size": 4096,
}

_MODULES = (
    r"(linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|self_attn\.[qkvo]_proj"
    r"|mlp\.(shared_expert\.|experts\.\d+\.)(gate|up|down)_proj)\.weight"
)
_TRUNK = re.compile(r"model\..*" + _MODULES)
_ALL = re.compile(r".*" + _MODULES)
_GROUP = 128


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor to write.

    Attributes:
        end: of its name, in place of "weight".
        values: a kind of noise, or all bytes.
    """

    end: str
    dtype: str
    shape: tuple[int, ...]
    values: str | bytes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _SIZES[self.dtype]


_SIZES = {"F32": 4, "I64": 8, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1}
Packer = Callable[[tuple[int, ...]], list[Part]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A form of checkpoints.

    Attributes:
        config: its `quantization_config`.
        modules: names of the weights that are quantised; None for all matrices, in mlx-lm's layout.
        pack: the parts of one of them, given its shape.
        fused: whether gate and up projections of all experts are one tensor.
    """

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    modules: re.Pattern[str] | None = re.compile("(?!)")
    pack: Packer = lambda shape: [Part("weight", "BF16", shape, "weights")]
    fused: bool = False


def _gptq(shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    groups = columns // _GROUP
    order = (np.arange(columns) // _GROUP).astype(np.int32).tobytes()
    return [
        Part("qweight", "I32", (columns // 8, rows), "codes"),
        Part("qzeros", "I32", (groups, rows // 8), "sevens"),
        Part("scales", "F16", (groups, rows), "F16"),
        Part("g_idx", "I32", (columns,), order),
    ]


def _awq(shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    groups = columns // _GROUP
    return [
        Part("qweight", "I32", (columns, rows // 8), "codes"),
        Part("qzeros", "I32", (groups, rows // 8), "codes"),
        Part("scales", "F16", (groups, rows), "F16"),
    ]


def _pack_quantized(shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    return [
        Part("weight_packed", "I32", (rows, columns // 8), "codes"),
        Part("weight_scale", "BF16", (rows, columns // _GROUP), "BF16"),
        Part("weight_shape", "I64", (2,), np.array(shape, np.int64).tobytes()),
    ]


def _float8(shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    return [
        Part("weight", "F8_E4M3", shape, "E4M3"),
        Part("weight_scale_inv", "BF16", (-(-rows // 128), -(-columns // 128)), "BF16"),
    ]


def _nvfp4(shape: tuple[int, ...]) -> list[Part]:
    rows, columns = shape
    return [
        Part("weight", "U8", (rows, columns // 2), "codes"),
        Part("weight_scale", "F8_E4M3", (rows, columns // 16), "E4M3 scales"),
        Part("weight_scale_2", "F32", (), np.float32(0.003).tobytes()),
        Part("input_scale", "F32", (), np.float32(1).tobytes()),
    ]


def _mlx(shape: tuple[int, ...]) -> list[Part]:
    kinds = {"weight": ("U32", "codes"), "scales": ("BF16", "BF16"), "biases": ("BF16", "weights")}
    packed = Quantization(64, 4).packed(shape)
    return [Part(name, kinds[name][0], size, kinds[name][1]) for name, size in packed.items()]


_INTEGERS = {
    **{"num_bits": 4, "type": "int", "dynamic": False, "group_size": _GROUP},
    **{"strategy": "group", "symmetric": True, "actorder": None},
}
KINDS: Mapping[str, Kind] = {
    "bf16": Kind(fused=True),
    "fp8": Kind({"quant_method": "fp8", "weight_block_size": [128, 128]}, _ALL, _float8),
    "gptq": Kind(
        {
            **{"quant_method": "gptq", "bits": 4, "group_size": _GROUP, "sym": True},
            "checkpoint_format": "gptq",
        },
        _TRUNK,
        _gptq,
    ),
    "awq": Kind(
        {
            **{"quant_method": "awq", "bits": 4, "group_size": _GROUP, "zero_point": True},
            "version": "gemm",
        },
        _TRUNK,
        _awq,
    ),
    "compressed-tensors": Kind(
        {
            **{"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": _INTEGERS}},
        },
        _TRUNK,
        _pack_quantized,
    ),
    "nvfp4": Kind({"quant_method": "modelopt", "quant_algo": "NVFP4"}, _TRUNK, _nvfp4),
    "mlx": Kind({"group_size": 64, "bits": 4, "mode": "affine"}, None, _mlx),
}


def model_config(layers: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """config.json without a quantisation."""
    text = {**TEXT_CONFIG, **sizes, "num_hidden_layers": layers}
    return {"model_type": "qwen3_5_moe", "text_config": text}


def write_source(folder: Path, kind: str, nbytes: int, sizes: Mapping[str, Any] = {}) -> None:
    """Write a checkpoint folder.

    Args:
        kind: a key of `KINDS`.
        nbytes: of all tensors, about: the number of layers follows.
        sizes: settings in place of those of `TEXT_CONFIG`.
    """
    layers = layers_for(nbytes, lambda count: sum(
        part.nbytes for _, part in _stored(kind, model_config(count, sizes))))  # fmt: skip
    config = model_config(layers, sizes)
    folder.mkdir(parents=True)
    tensors = dict(_stored(kind, config))
    shards = _shards(tensors)
    owners: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, {name: tensors[name] for name in names})
        owners |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": owners}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    quantization = KINDS[kind].config
    key = "quantization" if kind == "mlx" else "quantization_config"
    (folder / "config.json").write_text(
        json.dumps(config | ({key: quantization} if quantization else {}))
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(qwen35_mlx.demo.__path__[0]) / name, folder)


def layers_for(nbytes: int, size: Callable[[int], int]) -> int:
    """How many layers come nearest to `nbytes`: `size` is that of so many."""
    one, three = size(1), size(3)
    return max(1, 1 + round(2 * (nbytes - one) / (three - one)))


def largest_layer() -> int:
    """The number of weights of the largest layer."""
    model = ModelConfig.from_dict(model_config(2, {}))
    counts: dict[str, int] = {}
    for name, shape in trunk_tensors(model).items():
        if name.startswith("model.layers."):
            layer = name.split(".")[2]
            counts[layer] = counts.get(layer, 0) + math.prod(shape)
    return max(counts.values())


def _stored(kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Part]]:
    """All tensors of a checkpoint by stored name, in the order of a forward pass."""
    how, model = KINDS[kind], ModelConfig.from_dict(config)
    if how.modules is None:
        for name, shape in trunk_tensors(model).items():
            packed = recipes.is_quantizable(name, shape)
            parts = how.pack(shape) if packed else _plain(shape)
            yield from _named("language_model." + name, parts)
        return
    for name, shape in (trunk_tensors(model) | mtp_tensors(model)).items():
        for stored, size in _published(name, shape, how.fused):
            parts = how.pack(size) if how.modules.fullmatch(stored) else _plain(size)
            published = re.sub(r"^model\.", "model.language_model.", stored)
            yield from _named(published, parts)


def _plain(shape: tuple[int, ...]) -> list[Part]:
    return [Part("weight", "BF16", shape, "weights")]


def _named(weight: str, parts: Sequence[Part]) -> Iterator[tuple[str, Part]]:
    for part in parts:
        yield re.sub("weight$", part.end, weight), part


def _published(
    name: str, shape: tuple[int, ...], fused: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of which a canonical one is read. Experts of an MTP head are never fused."""
    if name.endswith("conv1d.weight"):
        yield name, (shape[0], shape[2], shape[1])
    elif "switch_mlp" not in name:
        yield name, shape
    elif not fused or name.startswith("mtp."):
        stem, _, end = name.partition("switch_mlp.")
        for expert in range(shape[0]):
            yield f"{stem}experts.{expert}.{end}", shape[1:]
    elif "gate_proj" in name:
        stem = name.partition("switch_mlp.")[0]
        yield f"{stem}experts.gate_up_proj", (shape[0], 2 * shape[1], shape[2])
    elif "down_proj" in name:
        yield f"{name.partition('switch_mlp.')[0]}experts.down_proj", shape


def _shards(tensors: Mapping[str, Part]) -> list[list[str]]:
    """Names by shard."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, part in tensors.items():
        if shards[-1] and size + part.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += part.nbytes
    return shards


def _write_file(path: Path, tensors: Mapping[str, Part]) -> None:
    header: dict[str, Any] = {}
    begin = 0
    for name, part in tensors.items():
        offsets = [begin, begin + part.nbytes]
        header[name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": offsets}
        begin = offsets[1]
    text = json.dumps(header).encode()
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in tensors.values():
            if isinstance(part.values, bytes):
                file.write(part.values)
            else:
                for piece in pieces(part.values, part.nbytes):
                    file.write(piece)


def write_adapter(folder: Path, rank: int = 16) -> None:
    """A LoRA adapter, in PEFT's layout, of the mixer of the first layer of a "bf16" source."""
    folder.mkdir()
    hidden, model = 2048, ModelConfig.from_dict(model_config(1, {}))
    tensors: dict[str, Part] = {}
    for module, shape in (
        ("in_proj_qkv", (model.linear_conv_dim, hidden)),
        ("out_proj", (hidden, model.linear_value_dim)),
    ):
        name = f"base_model.model.model.layers.0.linear_attn.{module}"
        tensors[f"{name}.lora_A.weight"] = Part("", "BF16", (rank, shape[1]), "weights")
        tensors[f"{name}.lora_B.weight"] = Part("", "BF16", (shape[0], rank), "weights")
    _write_file(folder / "adapter_model.safetensors", tensors)
    config = {
        **{"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"},
        "target_modules": ["in_proj_qkv", "out_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
