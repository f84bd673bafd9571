"""The plan of `--dequantize`: plain weights in the layout of Hugging Face.

transformers loads the result, and so do mlx-lm and this project: names of transformers, norms as w,
convolutions [channels, 1, kernel], gate and up projections of all experts in one tensor, the MTP
head among the other tensors. What the source has not quantised is written bit for bit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.dtypes import network_dtype
from qwen35_mlx.checkpoint.safetensors_writer import TensorSpec
from qwen35_mlx.checkpoint.tensor_readers import CHUNK_ELEMENTS, PackedMatrix
from qwen35_mlx.conversion.plan import KEPT, ConversionPlan, config_dtype, shards
from qwen35_mlx.conversion.planned_tensor import stores_weight, zero_centred
from qwen35_mlx.model.reconcile import resolved
from qwen35_mlx.model.weight_shapes import is_zero_centred_norm
from qwen35_mlx.model.weights import DTYPES

_GATE, _UP = ".switch_mlp.gate_proj.weight", ".switch_mlp.up_proj.weight"
_DOWN = ".switch_mlp.down_proj.weight"
_STORED_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class HfTensor:
    """One tensor to write.

    Attributes:
        name: as it is written.
        sources: canonical names; the rows of each matrix of a second one follow those of the first.
        shape: as it is written.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def quantization(self) -> None:
        return None

    @property
    def carried(self) -> bool:
        return False

    @property
    def raw(self) -> bool:
        return True

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size

    def specs(self) -> list[TensorSpec]:
        return [TensorSpec(self.name, self.dtype, self.shape)]

    def chunks(self, checkpoint: Checkpoint) -> Iterator[list[mx.array]]:
        """The values, a few rows at a time."""
        readers = [checkpoint.plain(name) for name in self.sources]
        if is_zero_centred_norm(self.sources[0]):
            yield [zero_centred(readers[0]).astype(self.dtype)]
            return
        rows = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            parts = [reader.read(start, stop).astype(self.dtype) for reader in readers]
            yield [parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)]


def plan_dequantization(checkpoint: Checkpoint, dtype: mx.Dtype | None) -> ConversionPlan:
    """The plan for a checkpoint.

    Args:
        dtype: of all but the parameters of the decay and the gated norms; None keeps that of each
            tensor that is not quantised, and gives the others the dtype that config.json names.
    """
    prefix = "model.language_model." if "text_config" in checkpoint.config else "model."
    tensors: list[HfTensor] = []
    for name, shape in checkpoint.expected.items():
        if name.endswith(_UP):
            continue
        sources, written = (name,), name
        if name.endswith(_GATE):
            stem = name.removesuffix(_GATE)
            sources, written = (name, stem + _UP), stem + ".experts.gate_up_proj"
            shape = (shape[0], 2 * shape[1], shape[2])
        elif name.endswith(_DOWN):
            written = name.removesuffix(_DOWN) + ".experts.down_proj"
        elif name.endswith(".conv1d.weight"):
            shape = (shape[0], shape[2], shape[1])
        if written.startswith("model."):
            written = prefix + written.removeprefix("model.")
        tensors.append(HfTensor(written, sources, shape, _dtype(checkpoint, name, dtype)))
    config = _config(checkpoint, tensors)
    return ConversionPlan(shards(tensors), config, {"format": "pt"})


def _dtype(checkpoint: Checkpoint, name: str, wanted: mx.Dtype | None) -> mx.Dtype:
    matrix = checkpoint.matrices[name]
    if is_zero_centred_norm(name):
        norm, narrow = checkpoint.plain(name), wanted or checkpoint.dtype_of_most
        if wanted or stores_weight(norm, narrow):
            return narrow
        return narrow if _is_exact(zero_centred(norm), narrow) else mx.float32
    if name.endswith(".A_log"):
        # Published models have it in the dtype of the gated norm; a conversion may have widened it.
        norm = checkpoint.dtype(name.removesuffix("A_log") + "norm.weight")
        if checkpoint.dtype(name) == norm:
            return norm
        return norm if _is_exact(checkpoint.read(name), norm) else mx.float32
    if wanted and not name.endswith(KEPT):
        return wanted
    if matrix.file.stored_dtype in _STORED_FLOATS and not isinstance(matrix, PackedMatrix):
        return network_dtype(matrix)
    text_config = checkpoint.config.get("text_config", checkpoint.config)
    for section in (text_config, checkpoint.config):
        for key in ("dtype", "torch_dtype"):
            if section.get(key) in DTYPES:
                return DTYPES[section[key]]
    return checkpoint.dtype_of_most


def _is_exact(values: mx.array, dtype: mx.Dtype) -> bool:
    wide = values.astype(mx.float32)
    return bool(mx.array_equal(values.astype(dtype).astype(mx.float32), wide))


def _config(checkpoint: Checkpoint, tensors: Sequence[HfTensor]) -> Mapping[str, Any]:
    """config.json: nested as the source's, of the text model alone, without a quantisation."""
    config = resolved(checkpoint.config, checkpoint.model)
    text_config = config.get("text_config", config)
    if text_config is config:
        config["model_type"] = f"{checkpoint.model.model_type.removesuffix('_text')}_text"
    for section in (config, text_config):
        for key in ("_name_or_path", "vision_config", "quantization", "quantization_config"):
            section.pop(key, None)
    dtype = config_dtype(tensors)
    for section in (config, text_config):
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = dtype
    text_config["dtype"] = dtype
    family = "Qwen3_5Moe" if checkpoint.model.num_experts else "Qwen3_5"
    config["architectures"] = [f"{family}ForCausalLM"]
    return config
