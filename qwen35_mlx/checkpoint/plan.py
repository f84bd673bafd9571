"""What a conversion writes: tensors, files and config.json, planned before a weight is read."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.safetensors import TensorSpec
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.weights import DTYPES

# In elements: 8 MiB in bfloat16. MLX on a CPU makes many float32 copies of a piece for the float-4
# and float-8 modes; larger pieces are no faster.
PIECE = 4 << 20
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor of the source and what becomes of it."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    packing: Quantization | None

    @property
    def module(self) -> str:
        return "language_model." + self.name.removesuffix(".weight")

    def specs(self) -> list[TensorSpec]:
        """The tensors to write."""
        if self.packing is None:
            return [TensorSpec("language_model." + self.name, self.dtype, self.shape)]
        small = self.dtype if self.packing.mode == "affine" else mx.uint8
        return [
            TensorSpec(f"{self.module}.{last}", mx.uint32 if last == "weight" else small, shape)
            for last, shape in self.packing.packed(self.shape).items()
        ]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs())

    def pieces(self, checkpoint: Checkpoint) -> Iterator[list[mx.array]]:
        """The values of `specs`, a few rows at a time."""
        rows = max(1, PIECE // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            values = checkpoint.read(self.name, start, stop).astype(self.dtype)
            if self.packing is None:
                yield [values]
                continue
            how = self.packing
            yield list(mx.quantize(values, how.group_size, how.bits, mode=how.mode))


def plan_tensors(
    checkpoint: Checkpoint, wanted: Quantization | None, dtype: mx.Dtype | None
) -> list[Job]:
    dtype = dtype or checkpoint.dtype("model.embed_tokens.weight")
    return [
        Job(
            name,
            shape,
            mx.float32 if name.endswith(".A_log") else dtype,
            recipes.for_tensor(name, shape, wanted) if wanted else None,
        )
        for name, shape in checkpoint.expected.items()
    ]


def plan_files(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """File names and their tensors: the trunk in files of limited size, the MTP head in its own."""
    groups: list[list[Job]] = [[]]
    size = 0
    for job in jobs:
        if job.name.startswith("mtp."):
            continue
        if groups[-1] and size + job.nbytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(job)
        size += job.nbytes
    total = len(groups)
    # One file is called as mlx-lm calls it.
    shards = {
        f"model-{i:05d}-of-{total:05d}.safetensors" if total > 1 else "model.safetensors": group
        for i, group in enumerate(groups, 1)
    }
    # mlx-lm reads model*.safetensors and so leaves this one alone.
    if mtp := [job for job in jobs if job.name.startswith("mtp.")]:
        shards["mtp.safetensors"] = mtp
    return shards


def plan_config(
    checkpoint: Checkpoint, jobs: Sequence[Job], wanted: Quantization | None
) -> dict[str, Any]:
    """config.json for the result: multimodal in form, as mlx-lm asks, without the vision part."""
    config = json.loads(json.dumps(checkpoint.config))
    if "text_config" not in config:
        shared = {key: config[key] for key in ("architectures", "eos_token_id") if key in config}
        kind = config["model_type"].removesuffix("_text")
        config = {**shared, "model_type": kind, "text_config": config}
    text = config["text_config"]
    for gone in ("_name_or_path", "vision_config", "quantization", "quantization_config"):
        config.pop(gone, None)
        text.pop(gone, None)
    dtype = next(job.dtype for job in jobs if not job.name.endswith(".A_log"))
    text["dtype"] = next(name for name, known in DTYPES.items() if known == dtype)
    for place in (config, text):
        for key in ("dtype", "torch_dtype"):
            if key in place:
                place[key] = text["dtype"]
    # mlx-lm reads both of these, and from here only.
    text["tie_word_embeddings"] = checkpoint.model.tie_word_embeddings
    if "full_attention" in checkpoint.model.layer_types:
        first = checkpoint.model.layer_types.index("full_attention")
        text.setdefault("full_attention_interval", first + 1)
    if wanted:
        quantization = _entry(wanted)
        for job in jobs:
            if recipes.is_matrix(job.name, job.shape) and job.packing != wanted:
                quantization[job.module] = _entry(job.packing) if job.packing else False
        config["quantization"] = config["quantization_config"] = quantization
    return config


def _entry(how: Quantization) -> dict[str, Any]:
    return {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
