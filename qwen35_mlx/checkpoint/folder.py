"""The files of a checkpoint folder: config.json, its quantisation, the index and the weights."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.index import ADAPTER_CONFIG, CONFIG, WHOLE, is_head_file, read_index
from qwen35_mlx.checkpoint.names import canonical_name
from qwen35_mlx.checkpoint.safetensors import FileTensor, RemoteFile, list_tensors
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object

_SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})(.*)")


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
        if os.path.lexists(path / ADAPTER_CONFIG):
            raise Qwen35Error(
                f"{path} is an adapter: give the model that it was trained on, and "
                f"--adapter-path {path}"
            )
        raise Qwen35Error(f"{path} has no config.json: is it a checkpoint folder?")
    return read_json_object(file)


def weight_files(
    path: Path, remote: Mapping[Path, RemoteFile] | None = None
) -> dict[str, FileTensor]:
    """The tensors of a checkpoint folder, by their names in the files.

    They are in the files that the index names, or in model*.safetensors if there is no index,
    without numbered shards beside a whole model.safetensors. Those of an MTP head are among them
    only if they are in files of the model's other tensors.

    Args:
        remote: the files of which only the header is here.

    Raises:
        Qwen35Error: a file is missing or damaged, or two hold the same tensor.
    """
    owners = read_index(path)
    if owners is None:
        owners = {}
        found = set(path.glob("model*.safetensors"))
        if path / WHOLE in found:
            found = {file for file in found if not _SHARD.fullmatch(file.name)}
        files = {file for file in found if not is_head_file(file.name)} or found
    else:
        files = {
            path / file
            for name, file in owners.items()
            if not (is_head_file(file) and _is_of_head(name))
        }
    if not files:
        raise Qwen35Error(f"{path} has no weights: give a folder with model*.safetensors")
    tensors: dict[str, FileTensor] = {}
    for file in sorted(files):
        for name, tensor in list_tensors(file, (remote or {}).get(file)).items():
            if owners.get(name, file.name) != file.name:
                continue  # a left-over copy: the tensor is in the file that the index names
            if name in tensors:
                raise Qwen35Error(
                    f"{tensors[name].path} and {file} both hold '{name}': "
                    "remove the files that do not belong to this checkpoint"
                )
            tensors[name] = tensor
    for name, owner in owners.items():
        if name not in tensors and not _is_of_head(name):
            raise Qwen35Error(
                f"{path / owner} has no tensor '{name}', which the index places there: "
                "fetch the file again"
            )
    return tensors


def _is_of_head(stored_name: str) -> bool:
    return (canonical_name(stored_name) or "").startswith("mtp.")


def missing_tensor_advice(path: Path) -> str:
    """The next step when a tensor is missing: names a shard that is, if the files are numbered."""
    present = {file.name for file in path.glob("*.safetensors")}
    for name in sorted(present):
        numbered = _SHARD.fullmatch(name)
        if numbered is None:
            continue
        prefix, total, suffix = numbered.groups()
        for number in range(1, int(total) + 1):
            shard = f"{prefix}{number:05d}-of-{total}{suffix}"
            if shard not in present:
                return f"{shard} is missing, fetch it"
    return "fetch the checkpoint again, or check that config.json belongs to these weights"
