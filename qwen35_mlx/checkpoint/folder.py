"""The files of a checkpoint folder: config.json, its quantisation, the index and the weights."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.index import CONFIG, read_index
from qwen35_mlx.checkpoint.safetensors import FileTensor, list_tensors
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.untrusted_json import Fields, shown

# Rows and columns of a block of a float-8 matrix are widened to this many values at most;
# published checkpoints have 128.
_MAX_BLOCK = 1024
_DEFAULT_BLOCK = (128, 128)


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        Qwen35Error: the folder or the file is missing, or the file is not a JSON object.
    """
    if not path.is_dir():
        problem = "is a file, not a checkpoint folder" if path.exists() else "does not exist"
        raise Qwen35Error(f"{path} {problem}: give a folder with config.json and *.safetensors")
    file = path / CONFIG
    if not os.path.lexists(file):
        raise Qwen35Error(f"{path} has no config.json: is it a checkpoint folder?")
    return read_json_object(file)


def weight_files(path: Path) -> dict[str, FileTensor]:
    """The tensors of a checkpoint folder, by their names in the files.

    They are in the files that the index names, or in model*.safetensors if there is no index, and
    in mtp*.safetensors either way.

    Raises:
        Qwen35Error: a file is missing or damaged, or two hold the same tensor.
    """
    owners = read_index(path)
    if owners is None:
        owners = {}
        files = set(path.glob("model*.safetensors"))
    else:
        files = {path / name for name in owners.values()}
    if not files:
        found = "a GGUF file, which is not supported" if [*path.glob("*.gguf")] else "no weights"
        raise Qwen35Error(f"{path} has {found}: give a folder with model*.safetensors")
    files |= set(path.glob("mtp*.safetensors"))
    tensors: dict[str, FileTensor] = {}
    for file in sorted(files):
        for name, tensor in list_tensors(file).items():
            if owners.get(name, file.name) != file.name:
                continue  # a left-over copy: the tensor is in the file that the index names
            if name in tensors:
                raise Qwen35Error(
                    f"{tensors[name].path} and {file} both hold '{name}': "
                    "remove the files that do not belong to this checkpoint"
                )
            tensors[name] = tensor
    for name, owner in owners.items():
        if name not in tensors:
            raise Qwen35Error(
                f"{path / owner} has no tensor '{name}', which the index places there: "
                "fetch the file again"
            )
    return tensors


def missing_tensor_advice(path: Path) -> str:
    """The next step when a tensor is missing: names a shard that is, if the files are numbered."""
    present = {file.name for file in path.glob("*.safetensors")}
    for name in sorted(present):
        numbered = re.fullmatch(r"(.*-)\d{5}-of-(\d{5})(.*)", name)
        if numbered is None:
            continue
        prefix, total, suffix = numbered.groups()
        for number in range(1, int(total) + 1):
            shard = f"{prefix}{number:05d}-of-{total}{suffix}"
            if shard not in present:
                return f"{shard} is missing, fetch it"
    return "fetch the checkpoint again, or check that config.json belongs to these weights"


def float8_block_shape(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale in a float-8 checkpoint; (128, 128) in any other.

    Raises:
        Qwen35Error: the checkpoint is quantised by a method that is not supported.
    """
    if config.get("quantization"):
        return _DEFAULT_BLOCK
    top = Fields(config, "config.json")
    entry = (
        top.section("quantization_config").values
        or top.section("text_config").section("quantization_config").values
    )
    if not entry or _is_mlx_entry(entry):
        return _DEFAULT_BLOCK
    method = entry.get("quant_method", entry.get("quant_type"))
    if method != "fp8":
        raise Qwen35Error(
            f"config.json: quantisation by {shown(method)} is not supported: "
            "use the BF16, FP8 or MLX checkpoint of this model"
        )
    block = entry.get("weight_block_size", list(_DEFAULT_BLOCK))
    if not (
        isinstance(block, list)
        and len(block) == 2
        and all(type(b) is int and 1 <= b <= _MAX_BLOCK for b in block)
    ):
        raise Qwen35Error(
            f"config.json: FP8 with weight_block_size {shown(block)} is not supported: "
            "use a checkpoint with blocks of 128x128, or BF16"
        )
    return block[0], block[1]


def mlx_quantization(
    config: Mapping[str, Any],
) -> tuple[Quantization | None, dict[str, Quantization | None]]:
    """The default quantisation of an MLX checkpoint, and the modules that differ from it.

    Returns:
        None and {} for a checkpoint that is not quantised for MLX. Modules are named as in
        config.json; None stands for one that is plain.

    Raises:
        Qwen35Error: an entry is incomplete, or MLX has no such quantisation.
    """
    top = Fields(config, "config.json")
    entry = top.section("quantization").values
    if not entry:
        entry = top.section("quantization_config").values
        if not _is_mlx_entry(entry):
            return None, {}
    default = _read_quantization(entry, "quantization")
    overrides: dict[str, Quantization | None] = {}
    for key, value in entry.items():
        if value is True:
            overrides[key] = default
        elif value is False:
            overrides[key] = None
        elif isinstance(value, Mapping):
            overrides[key] = _read_quantization(value, key)
    return default, overrides


def _is_mlx_entry(entry: Mapping[str, Any]) -> bool:
    """Whether a `quantization_config` is mlx-lm's; other methods give their name."""
    return "group_size" in entry and "quant_method" not in entry


def _read_quantization(entry: Mapping[str, Any], key: str) -> Quantization:
    if "group_size" not in entry or "bits" not in entry:
        raise Qwen35Error(
            f"config.json: {shown(key)} does not give the group_size and bits of an MLX "
            "quantisation: fetch it again"
        )
    fields = Fields(entry, f"config.json: {shown(key)}")
    group_size, bits = fields.whole("group_size"), fields.whole("bits")
    mode = fields.text("mode", "affine")
    try:
        return recipes.quantization(mode, bits, group_size)
    except Qwen35Error:
        raise Qwen35Error(
            f"config.json: {shown(key)} asks for {bits} bits in groups of {group_size}, mode "
            f"{shown(mode)}, which MLX does not have: fetch it again or choose another checkpoint"
        ) from None
