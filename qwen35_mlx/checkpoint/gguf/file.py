"""A GGUF model on disk: one file, or the parts that llama.cpp splits one into. No MLX, no numpy."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.gguf.header import GGUFHeader, GGUFTensor, read_header
from qwen35_mlx.checkpoint.gguf_names import parts_of
from qwen35_mlx.errors import Qwen35Error, shown

ARCHITECTURES = ("qwen35", "qwen35moe")


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The header of a model, from all of its files.

    Attributes:
        paths: the file, or its parts in order.
        metadata: of the first part; values as in `GGUFHeader`.
        tensors: of all parts, by name.
    """

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    @property
    def path(self) -> Path:
        """The first file, as error lines name it."""
        return self.paths[0]


def open_gguf(path: Path) -> GGUFFile:
    """Read the header of a GGUF file of Qwen3.5, and those of its other parts if it is split.

    Args:
        path: the file, or any of its parts.

    Raises:
        Qwen35Error: a part is missing, damaged or of another model, or it is not a text model of
            the architectures `qwen35` and `qwen35moe`.
    """
    opened = read_header(path)
    count = _whole(path, opened, "split.count", 1)
    paths = (path,) if count <= 1 else _part_paths(path, count)
    headers = [opened if part == path else read_header(part) for part in paths]
    first = headers[0]
    tensors: dict[str, GGUFTensor] = {}
    for number, (part, header) in enumerate(zip(paths, headers, strict=True)):
        if len(paths) > 1:
            _check_part(part, header, number, count)
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise Qwen35Error(
                    f"{tensors[name].path} and {part} both hold '{name}': they are not parts of "
                    "one file, fetch them again"
                )
            tensors[name] = tensor
    file = GGUFFile(paths, first.metadata, tensors)
    expected = _whole(file.path, first, "split.tensors.count", len(tensors))
    if len(paths) > 1 and len(tensors) != expected:
        raise Qwen35Error(
            f"{file.path} and its other parts have {len(tensors)} tensors where "
            f"'split.tensors.count' is {expected}: fetch them again"
        )
    _check_architecture(file)
    return file


def _part_paths(path: Path, count: int) -> tuple[Path, ...]:
    """The parts of a split file, all of which are there."""
    names = parts_of(path.name)
    if len(names) != count:
        raise Qwen35Error(
            f"{path} is one of {count} parts, which are found by names such as "
            f"NAME-00001-of-{count:05d}.gguf: give the parts back their names"
        )
    paths = tuple(path.with_name(name) for name in names)
    for part in paths:
        if not os.path.lexists(part):
            raise Qwen35Error(f"{part} is missing, one of {count} parts: fetch it")
    return paths


def _check_part(path: Path, header: GGUFHeader, number: int, count: int) -> None:
    found = _whole(path, header, "split.no", -1), _whole(path, header, "split.count", 1)
    if found != (number, count):
        raise Qwen35Error(
            f"{path} is part {found[0] + 1} of {found[1]} by its header: fetch it again, or give "
            "it back its name"
        )


def _whole(path: Path, header: GGUFHeader, name: str, default: int) -> int:
    value = header.metadata.get(name, default)
    if type(value) is not int:
        raise Qwen35Error(f"{path}: '{name}' is {shown(value)}: fetch the file again")
    return value


def _check_architecture(file: GGUFFile) -> None:
    kind, architecture = (file.metadata.get(f"general.{name}") for name in ("type", "architecture"))
    if kind == "mmproj" or architecture == "clip":
        raise Qwen35Error(
            f"{file.path} is the vision part of a model (mmproj): give the file of the text model"
        )
    if kind == "adapter":
        raise Qwen35Error(f"{file.path} is a LoRA adapter: give the file of the model")
    if architecture not in ARCHITECTURES:
        raise Qwen35Error(
            f"{file.path} has the architecture {shown(architecture)}, which is not Qwen3.5 "
            f"({', '.join(ARCHITECTURES)}): choose a Qwen3.5, 3.6 or 3.8 file"
        )
    if not file.tensors:
        raise Qwen35Error(f"{file.path} has no weights: choose another file of this model")
