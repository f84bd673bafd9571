"""GGUF files of any size, of random blocks: for the converter."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

import qwen35_mlx.demo
from qwen35_mlx.conversion.gguf_file import add_metadata, model_metadata
from qwen35_mlx.conversion.gguf_plan import PlannedTensor, plan_tensors
from qwen35_mlx.conversion.gguf_text import text_metadata
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from qwen35_mlx.text.text_files import TextFiles
from scripts.support.noise import pieces
from scripts.support.sources import layers_for, model_config

TYPES = ("Q8_0", "Q4_K", "Q6_K")


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The shapes of a model's tensors, as the plan of a file takes them."""

    config: ModelConfig

    def names(self) -> frozenset[str]:
        return frozenset(trunk_tensors(self.config) | mtp_tensors(self.config))

    def shape(self, name: str) -> tuple[int, ...]:
        return (trunk_tensors(self.config) | mtp_tensors(self.config))[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        raise NotImplementedError


def write_gguf_source(path: Path, kind: str, nbytes: int, sizes: Mapping[str, Any] = {}) -> None:
    """Write a file of about `nbytes`.

    Args:
        kind: one of `TYPES`, of all matrices.
        sizes: settings in place of those of `sources.TEXT_CONFIG`.
    """

    def tensors(config: ModelConfig) -> list[tuple[PlannedTensor, str]]:
        plan = plan_tensors(_Shapes(config), config, "Q8_0")
        return [(tensor, kind if tensor.kind.name == "Q8_0" else "F32") for tensor in plan]

    def size(layers: int) -> int:
        config = ModelConfig.from_dict(model_config(layers, sizes))
        return sum(_nbytes(tensor, stored) for tensor, stored in tensors(config))

    config = ModelConfig.from_dict(model_config(layers_for(nbytes, size), sizes))
    writer = gguf.GGUFWriter(None, "qwen35moe")
    for tensor, stored in tensors(config):
        block = gguf.GGMLQuantizationType[stored]
        writer.add_tensor_info(
            *(tensor.name, tensor.shape, np.dtype(np.float32), _nbytes(tensor, stored), block)
        )
    text = TextFiles.from_folder(Path(qwen35_mlx.demo.__path__[0]))
    metadata = model_metadata(config, writer.arch, True) | text_metadata(text, config.vocab_size)
    add_metadata(writer, metadata)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab", buffering=0) as file:
        file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
        for tensor, stored in tensors(config):
            nbytes = _nbytes(tensor, stored)
            if tensor.name.endswith("ssm_a"):
                file.write(np.full(tensor.shape, -1, np.float32).tobytes())
            else:
                for piece in pieces(stored, nbytes):
                    file.write(piece)
            file.write(bytes(-nbytes % gguf.GGUF_DEFAULT_ALIGNMENT))


def _nbytes(tensor: PlannedTensor, stored: str) -> int:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[stored]]
    return math.prod(tensor.shape) // block * size
