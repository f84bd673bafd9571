"""What a checkpoint folder says of itself: its config, its quantisation, its weight files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.safetensors import FileTensor, list_tensors
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        Qwen35Error: the folder or the file is missing, or not readable as JSON.
    """
    if not path.is_dir():
        what = "is a file, not a checkpoint folder" if path.exists() else "does not exist"
        raise Qwen35Error(f"{path} {what}: give a folder with config.json and *.safetensors")
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Qwen35Error(f"{path} has no config.json: is it a checkpoint folder?") from None
    except (OSError, ValueError) as error:
        raise Qwen35Error(f"cannot read {file} ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise Qwen35Error(f"{file} is not a JSON object: fetch it again")
    return config


def weight_files(path: Path) -> dict[str, FileTensor]:
    """Tensors of the files the index names, else of model*.safetensors; and of mtp*.safetensors."""
    index = path / "model.safetensors.index.json"
    owners: dict[str, str] = {}
    if index.exists():
        try:
            owners = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {path / name for name in owners.values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Qwen35Error(f"cannot read {index} ({error!r}): fetch it again") from error
        for file in sorted(files):
            if file.parent != path:
                raise Qwen35Error(f"{index} names {file}, outside its folder: fetch it again")
            if not file.exists():
                raise Qwen35Error(
                    f"{file} is missing, which model.safetensors.index.json names: "
                    "fetch it, or delete the index if it is out of date"
                )
    else:
        files = set(path.glob("model*.safetensors"))
    if not files:
        kinds = "a GGUF file, which is not read here" if [*path.glob("*.gguf")] else "no weights"
        raise Qwen35Error(f"{path} has {kinds}: give a folder with model*.safetensors")
    files |= set(path.glob("mtp*.safetensors"))
    tensors: dict[str, FileTensor] = {}
    for file in sorted(files):
        for name, tensor in list_tensors(file).items():
            if owners.get(name, file.name) != file.name:
                continue  # A left-over copy: the index says which one counts.
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


def what_to_fetch(path: Path) -> str:
    """The next step when a tensor is missing: a shard of a numbered series may be."""
    present = {file.name for file in path.glob("*.safetensors")}
    for name in sorted(present):
        series = re.fullmatch(r"(.*-)(\d{5})(-of-)(\d{5})(.*)", name)
        if series is None:
            continue
        head, _, of, total, tail = series.groups()
        for number in range(1, int(total) + 1):
            shard = f"{head}{number:05d}{of}{total}{tail}"
            if shard not in present:
                return f"{shard} is missing, fetch it"
    return "fetch the checkpoint again, or check that config.json belongs to these weights"


def float8_block(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a float-8 block.

    Raises:
        Qwen35Error: the checkpoint is quantised by a method that is not read here.
    """
    text = config.get("text_config") or {}
    said = config.get("quantization_config") or text.get("quantization_config") or {}
    for_mlx = "group_size" in said and "quant_method" not in said
    if config.get("quantization") or not said or for_mlx:
        return 128, 128
    method = said.get("quant_method", said.get("quant_type"))
    if method != "fp8":
        raise Qwen35Error(
            f"config.json: quantisation by {method!r} is not read here: "
            "use the BF16, FP8 or MLX checkpoint of this model"
        )
    block = said.get("weight_block_size", [128, 128])
    if not (isinstance(block, list) and len(block) == 2 and all(type(b) is int for b in block)):
        raise Qwen35Error(
            f"config.json: FP8 with weight_block_size {block!r} is not read here: "
            "use a checkpoint with blocks of 128x128, or BF16"
        )
    return block[0], block[1]


def mlx_quantization(
    config: Mapping[str, Any],
) -> tuple[Quantization | None, dict[str, Quantization | None]]:
    """The default of a checkpoint quantised for MLX, and the modules that differ from it.

    Modules are named as config.json names them; None stands for one that is plain.
    """
    said = config.get("quantization")
    if not said:
        said = config.get("quantization_config") or {}
        if "quant_method" in said or "group_size" not in said:
            return None, {}
    default = _read_quantization(said, "quantization")
    overrides: dict[str, Quantization | None] = {}
    for key, value in said.items():
        if value is True:
            overrides[key] = default
        elif value is False:
            overrides[key] = None
        elif isinstance(value, Mapping):
            overrides[key] = _read_quantization(value, key)
    return default, overrides


def _read_quantization(said: Any, where: str) -> Quantization:
    try:
        group_size, bits, mode = said["group_size"], said["bits"], said.get("mode", "affine")
    except (KeyError, TypeError, AttributeError):
        raise Qwen35Error(
            f"config.json: '{where}' does not give the group_size and bits of an MLX quantisation: "
            "fetch it again"
        ) from None
    try:
        return recipes.quantization(mode, bits, group_size)
    except Qwen35Error:
        raise Qwen35Error(
            f"config.json: '{where}' asks for {bits} bits in groups of {group_size}, mode {mode}, "
            "which MLX does not have: fetch it again or choose another checkpoint"
        ) from None
