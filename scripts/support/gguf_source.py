"""GGUF files of any size, of random blocks: for the benchmark of the converter."""

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
from qwen35_mlx.model.weight_shapes import Shapes, mtp_tensors, trunk_tensors
from qwen35_mlx.text.text_files import TextFiles
from scripts.support.noise import pieces
from scripts.support.sources import layers_for, model_config

TYPES = ("Q8_0", "Q4_K", "Q6_K")


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The shapes of a model's tensors, as the plan of a file takes them."""

    config: ModelConfig
    mtp: bool

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors())

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors()[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        raise NotImplementedError

    def _tensors(self) -> Shapes:
        return trunk_tensors(self.config) | (mtp_tensors(self.config) if self.mtp else {})


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """What a file holds, without the values.

    Attributes:
        mtp: whether there is an MTP head.
        tensors: in the order of the file, each with its type's name.
    """

    config: ModelConfig
    mtp: bool
    tensors: tuple[tuple[PlannedTensor, str], ...]

    @classmethod
    def of(cls, config: ModelConfig, kind: str, *, mtp: bool) -> "GgufLayout":
        """The tensors of a model, all matrices but routers and convolutions of type `kind`."""
        plan = plan_tensors(_Shapes(config, mtp), config, "Q8_0")
        tensors = [(tensor, kind if tensor.kind.name == "Q8_0" else "F32") for tensor in plan]
        return cls(config, mtp, tuple(tensors))

    @property
    def nbytes(self) -> int:
        """Of all values, without the padding behind them."""
        return sum(stored_nbytes(tensor, stored) for tensor, stored in self.tensors)

    def write_header(self, path: Path, more: Mapping[str, Any] = {}) -> None:
        """Write all that comes before the values, padded. The tokenizer is the demo model's.

        Args:
            more: metadata.
        """
        writer = gguf.GGUFWriter(None, "qwen35moe" if self.config.num_experts else "qwen35")
        for tensor, stored in self.tensors:
            size, block = stored_nbytes(tensor, stored), gguf.GGMLQuantizationType[stored]
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, block)
        text = TextFiles.from_folder(Path(qwen35_mlx.demo.__path__[0]))
        metadata = model_metadata(self.config, writer.arch, self.mtp)
        add_metadata(writer, {**more, **metadata, **text_metadata(text, self.config.vocab_size)})
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("ab", buffering=0) as file:
            file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def write_gguf_source(path: Path, kind: str, nbytes: int, sizes: Mapping[str, Any] = {}) -> None:
    """Write a file of about `nbytes`.

    Args:
        kind: one of `TYPES`, of all matrices.
        sizes: settings in place of those of `sources.TEXT_CONFIG`.
    """

    def layout(layers: int) -> GgufLayout:
        return GgufLayout.of(ModelConfig.from_dict(model_config(layers, sizes)), kind, mtp=True)

    found = layout(layers_for(nbytes, lambda layers: layout(layers).nbytes))
    found.write_header(path)
    with path.open("ab", buffering=0) as file:
        for tensor, stored in found.tensors:
            if tensor.name.endswith("ssm_a"):
                file.write(np.full(tensor.shape, -1, np.float32).tobytes())
            else:
                for piece in pieces(stored, stored_nbytes(tensor, stored)):
                    file.write(piece)
            file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def stored_nbytes(tensor: PlannedTensor, stored: str) -> int:
    """Bytes of a tensor's values in a type."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[stored]]
    return math.prod(tensor.shape) // block * size
