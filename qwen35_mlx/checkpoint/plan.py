"""The plan of a conversion: tensors, files and config.json, before any weight is read."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.safetensors import TensorSpec
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.weights import DTYPES

# Elements that are converted at a time: 8 MiB in bfloat16. For float-4 and float-8 modes, MLX on a
# CPU makes many float32 copies of a chunk; larger chunks are no faster.
CHUNK_ELEMENTS = 4 << 20
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the source and how it is written.

    Attributes:
        name: canonical.
        shape: of the plain tensor.
        dtype: of the plain tensor, or of the scales of an affine quantisation.
        quantization: None leaves it plain.
    """

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    quantization: Quantization | None

    @property
    def module(self) -> str:
        """The module that the tensor belongs to, as mlx-lm names it."""
        return "language_model." + self.name.removesuffix(".weight")

    def specs(self) -> list[TensorSpec]:
        """The tensors to write: one, or the parts of a quantised matrix."""
        if self.quantization is None:
            return [TensorSpec("language_model." + self.name, self.dtype, self.shape)]
        scale_dtype = self.dtype if self.quantization.mode == "affine" else mx.uint8
        return [
            TensorSpec(
                f"{self.module}.{part}", mx.uint32 if part == "weight" else scale_dtype, shape
            )
            for part, shape in self.quantization.packed(self.shape).items()
        ]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs())

    def chunks(self, checkpoint: Checkpoint) -> Iterator[list[mx.array]]:
        """The values of `specs`, a few rows at a time."""
        rows = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            values = checkpoint.read(self.name, start, stop).astype(self.dtype)
            if self.quantization is None:
                yield [values]
            else:
                q = self.quantization
                yield list(mx.quantize(values, q.group_size, q.bits, mode=q.mode))


def plan_tensors(
    checkpoint: Checkpoint, quantization: Quantization | None, dtype: mx.Dtype | None
) -> list[TensorPlan]:
    """How each tensor of a plain checkpoint is written.

    Args:
        quantization: of most matrices; None leaves all of them plain.
        dtype: of all but A_log, which stays float32; None for that of the embeddings.
    """
    dtype = dtype or checkpoint.dtype("model.embed_tokens.weight")
    return [
        TensorPlan(
            name,
            shape,
            mx.float32 if name.endswith(".A_log") else dtype,
            recipes.quantization_for(name, shape, quantization) if quantization else None,
        )
        for name, shape in checkpoint.expected.items()
    ]


def plan_files(plans: Sequence[TensorPlan]) -> dict[str, list[TensorPlan]]:
    """Tensors by file name: shards of limited size, and one file for the MTP head."""
    groups: list[list[TensorPlan]] = [[]]
    size = 0
    for plan in plans:
        if plan.name.startswith("mtp."):
            continue
        if groups[-1] and size + plan.nbytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(plan)
        size += plan.nbytes
    total = len(groups)
    # Both names are mlx-lm's.
    shards = {
        f"model-{i:05d}-of-{total:05d}.safetensors" if total > 1 else "model.safetensors": group
        for i, group in enumerate(groups, 1)
    }
    # mlx-lm reads model*.safetensors, so it does not read this file.
    if mtp := [plan for plan in plans if plan.name.startswith("mtp.")]:
        shards["mtp.safetensors"] = mtp
    return shards


def plan_config(
    checkpoint: Checkpoint, plans: Sequence[TensorPlan], quantization: Quantization | None
) -> dict[str, Any]:
    """config.json of the result: nested like that of a multimodal model, as mlx-lm expects.

    Args:
        quantization: of most matrices.
    """
    config = json.loads(json.dumps(checkpoint.config))
    if "text_config" not in config:
        shared = {key: config[key] for key in ("architectures", "eos_token_id") if key in config}
        model_type = config["model_type"].removesuffix("_text")
        config = {**shared, "model_type": model_type, "text_config": config}
    text_config = config["text_config"]
    for key in ("_name_or_path", "vision_config", "quantization", "quantization_config"):
        config.pop(key, None)
        text_config.pop(key, None)
    dtype = next(plan.dtype for plan in plans if not plan.name.endswith(".A_log"))
    text_config["dtype"] = next(name for name, known in DTYPES.items() if known == dtype)
    for section in (config, text_config):
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = text_config["dtype"]
    # mlx-lm reads both of these from the text config only.
    text_config["tie_word_embeddings"] = checkpoint.model.tie_word_embeddings
    if "full_attention" in checkpoint.model.layer_types:
        first = checkpoint.model.layer_types.index("full_attention")
        text_config.setdefault("full_attention_interval", first + 1)
    if quantization:
        entry = _entry(quantization)
        for plan in plans:
            if recipes.is_quantizable(plan.name, plan.shape) and plan.quantization != quantization:
                entry[plan.module] = _entry(plan.quantization) if plan.quantization else False
        config["quantization"] = config["quantization_config"] = entry
    return config


def _entry(quantization: Quantization) -> dict[str, Any]:
    """A quantisation as config.json spells it."""
    return {
        "group_size": quantization.group_size,
        "bits": quantization.bits,
        "mode": quantization.mode,
    }
