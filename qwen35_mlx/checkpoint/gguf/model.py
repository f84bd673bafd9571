"""A GGUF file as a checkpoint: config.json, and canonical tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.gguf.config import config_of_file
from qwen35_mlx.checkpoint.gguf.file import open_gguf
from qwen35_mlx.checkpoint.gguf.names import model_tensors
from qwen35_mlx.checkpoint.tensor_readers import Matrix
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """What a GGUF file holds.

    Attributes:
        files: the file, or its parts in order.
        config: config.json of the same model.
        tensors: by canonical name. Types that `mx.quantize` can express are packed, the rest is
            read as values. That all are there is not checked.
        metadata: as stored; values as in `GGUFHeader`.
        left_out: stored names of what the text network does not use.
    """

    files: tuple[Path, ...]
    config: dict[str, Any]
    tensors: Mapping[str, Matrix]
    metadata: Mapping[str, Any]
    left_out: tuple[str, ...]


def read_gguf(path: Path) -> GGUFModel:
    """Read the headers of a GGUF file, and of its other parts if it is split; no weights.

    Raises:
        Qwen35Error: a file is missing, damaged, not of Qwen3.5 or not of its text network.
    """
    file = open_gguf(path)
    config = config_of_file(file)
    tensors, left_out = model_tensors(file, ModelConfig.from_dict(config))
    if not any(name.startswith("model.layers.") for name in tensors):
        raise Qwen35Error(
            f"{file.path} has no layers of the model, only an MTP head or embeddings: give the "
            "file of the whole model"
        )
    return GGUFModel(file.paths, config, tensors, file.metadata, left_out)
