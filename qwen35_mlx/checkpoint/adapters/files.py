"""The files of an adapter."""

import os
from collections.abc import Mapping
from pathlib import Path

from qwen35_mlx.checkpoint.adapters import mlx_lm, peft
from qwen35_mlx.checkpoint.adapters.adapter import Adapter, Target
from qwen35_mlx.checkpoint.index import ADAPTER_CONFIG
from qwen35_mlx.checkpoint.safetensors import FileTensor, list_tensors
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object
from qwen35_mlx.untrusted_json import Fields

_PICKLED = "adapter_model.bin"


def adapter_file(path: Path) -> Path:
    """The weights of the adapter in a folder.

    Args:
        path: the folder, or the file itself.

    Raises:
        Qwen35Error: there is no adapter.
    """
    if path.is_file() and path.suffix == ".safetensors":
        return path
    for name in (peft.WEIGHTS, mlx_lm.WEIGHTS):
        if os.path.lexists(path / name):
            return path / name
    if os.path.lexists(path / _PICKLED):
        raise Qwen35Error(
            f"{path / _PICKLED} is a pickle, which may run any code: save it as safetensors"
        )
    problem = "has no adapter" if path.is_dir() else "does not exist"
    raise Qwen35Error(
        f"{path} {problem}: give a folder with {ADAPTER_CONFIG} and {peft.WEIGHTS} or "
        f"{mlx_lm.WEIGHTS}"
    )


def read_adapter(path: Path, target: Target) -> Adapter:
    """Read the headers of an adapter of PEFT or mlx-lm, but no weights.

    Args:
        path: as for `adapter_file`.

    Raises:
        Qwen35Error: a file is missing or damaged, or the adapter is of a kind that is not
            supported, or does not fit the model.
    """
    file = adapter_file(path)
    config = _config(file.parent)
    tensors = list_tensors(file)
    if not tensors:
        raise Qwen35Error(f"{file} has no tensors: fetch the adapter again")
    is_peft = "peft_type" in config.values or any(map(peft.is_adapter_tensor, tensors))
    read = peft.read_peft if is_peft else mlx_lm.read_mlx_lm
    return read(file, config, tensors, target)


def read_unmerged(folder: Path, tensors: Mapping[str, FileTensor], target: Target) -> Adapter:
    """The adapter of PEFT whose tensors are among those of a model.

    Raises:
        Qwen35Error: as `read_adapter`.
    """
    file = next(iter(tensors.values())).path
    if not os.path.lexists(folder / ADAPTER_CONFIG):
        name = next(iter(tensors))
        raise Qwen35Error(
            f"{file} has the LoRA tensor '{name}', which was not merged, and {folder} has no "
            f"{ADAPTER_CONFIG} with its scale: add that file, or save the model again after PEFT's "
            "merge_and_unload"
        )
    return peft.read_peft(file, _config(folder), tensors, target)


def unused_adapter(folder: Path) -> tuple[str, ...]:
    """A line about an adapter that lies in the folder of a model; () if there is none."""
    for name in (peft.WEIGHTS, mlx_lm.WEIGHTS, ADAPTER_CONFIG):
        if os.path.lexists(folder / name):
            line = (
                f"{folder / name} is of an adapter, which is not applied: --adapter-path {folder}"
            )
            return (f"{line} applies it",)
    return ()


def _config(folder: Path) -> Fields:
    if not os.path.lexists(folder / ADAPTER_CONFIG):
        raise Qwen35Error(
            f"{folder} has no {ADAPTER_CONFIG}, which holds the adapter's scale: fetch it"
        )
    file = folder / ADAPTER_CONFIG
    return Fields(read_json_object(file), str(file))
