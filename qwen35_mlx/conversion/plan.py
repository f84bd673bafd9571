"""The plan of a conversion: tensors, files and config.json, before any weight is read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.adapters.low_rank import FusedMatrix
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.dtypes import most_common_dtype
from qwen35_mlx.checkpoint.recipes import Recipe
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from qwen35_mlx.conversion.planned_tensor import (
    PlannedTensor,
    TensorPlan,
    stores_weight,
    zero_centred,
)
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.reconcile import resolved
from qwen35_mlx.model.weight_shapes import is_zero_centred_norm
from qwen35_mlx.model.weights import DTYPES

SHARD_BYTES = 5 * 10**9
MTP_FILE = "mtp.safetensors"
# Written as stored whatever the dtype of the model: a cast would save next to nothing.
KEPT = (".dt_bias", ".linear_attn.norm.weight")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


_Planned = TypeVar("_Planned", bound=PlannedTensor)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All that a conversion writes.

    Attributes:
        files: tensors by file name, in the order of writing.
        config: config.json.
        metadata: of each file.
    """

    files: Mapping[str, Sequence[PlannedTensor]]
    config: Mapping[str, Any]
    metadata: Mapping[str, str]

    @property
    def tensors(self) -> list[PlannedTensor]:
        return [tensor for file in self.files.values() for tensor in file]

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def dtype(self) -> str:
        """The name of the dtype of most of what is not quantised, scales included."""
        return _NAMES[_dtype_of_most(self.tensors)]

    @property
    def carried(self) -> int:
        """The number of quantised matrices that are copied from the source."""
        return sum(tensor.carried for tensor in self.tensors if tensor.quantization is not None)

    @property
    def parameters(self) -> int:
        """The number of weights of the plain model, with its MTP head."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def weighted(self, importance: Mapping[str, mx.array]) -> "ConversionPlan":
        """The plan whose searches for scales weight errors by the importance of inputs."""
        files = {
            file: [
                replace(tensor, importance=importance.get(tensor.name))
                if isinstance(tensor, TensorPlan)
                else tensor
                for tensor in tensors
            ]
            for file, tensors in self.files.items()
        }
        return replace(self, files=files)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Lines for the user: what a source that is quantised leads to."""
        notes: list[str] = []
        grown = {
            checkpoint.matrices[name].file.stored_dtype
            for tensor in self.tensors
            for name in tensor.sources
            if tensor.quantization is None and checkpoint.is_in_blocks(name)
        }
        if grown:
            notes.append(
                f"matrices of the types {', '.join(sorted(grown))} are written with 16 bits or "
                "more, as MLX has no such types: to quantise all matrices, add -q"
            )
        plain = {tensor.name for tensor in self.tensors if tensor.quantization is None}
        if widened := plain.intersection(checkpoint.widened):
            notes.append(
                f"{len(widened)} quantised matrices are in a form that MLX does not have: they are "
                "written with 16 bits; for fewer, add -q"
            )
        most = _dtype_of_most(self.tensors)
        other = {
            _NAMES[spec.dtype]
            for tensor in self.tensors
            for spec in tensor.specs()
            if tensor.carried and spec.dtype in _NAMES and spec.dtype != most
        }
        if other:
            notes.append(
                f"scales keep their {' and '.join(sorted(other))}, so that nothing is lost; beside "
                f"weights in {_NAMES[most]}, mlx-lm computes in float32: to round them, add "
                f"--dtype {_NAMES[most]}"
            )
        return notes


def plan_conversion(
    checkpoint: Checkpoint, recipe: Recipe | None, dtype: mx.Dtype | None
) -> ConversionPlan:
    """The plan of a conversion. Arguments: `plan_tensors`."""
    tensors = plan_tensors(checkpoint, recipe, dtype)
    config = plan_config(checkpoint, tensors, recipe)
    return ConversionPlan(plan_files(tensors), config, {"format": "mlx"})


def plan_tensors(
    checkpoint: Checkpoint, recipe: Recipe | None, dtype: mx.Dtype | None
) -> list[TensorPlan]:
    """How each tensor of a checkpoint is written.

    Nothing is rounded that need not be. (1 + w) of a norm needs more bits than w, and a float32
    norm would make all of mlx-lm's activations float32: so norms are written as w where that is
    exact, which every reader recognises by the form of the convolutions.

    Args:
        recipe: how matrices are quantised; None leaves each as it is, packed or plain.
        dtype: of all but the parameters of the decay and the gated norms; None keeps that of each
            tensor, and of a GGUF file, which has all but its large matrices in float32, that of
            most.
    """
    norms = _norm_dtypes(checkpoint, dtype)
    if dtype is None and checkpoint.is_gguf:
        dtype = checkpoint.dtype_of_most
    plans: list[TensorPlan] = []
    widened = {*checkpoint.widened}
    assignment = recipes.assign(recipe, checkpoint.expected, checkpoint.model) if recipe else {}
    for name, shape in checkpoint.expected.items():
        matrix = checkpoint.matrices[name]
        # The rotation of packed rows has no place in the result.
        is_kept = isinstance(matrix, PackedMatrix) and matrix.rotation is None
        stored = checkpoint.quantization(name.removesuffix(".weight")) if is_kept else None
        # A change by an adapter leaves a matrix as quantised as it was.
        unchanged = matrix.quantization if isinstance(matrix, FusedMatrix) else stored
        target = assignment[name] if recipe else unchanged
        carried = target is not None and target == stored
        own = checkpoint.dtype_of(name)
        if recipe and not carried and (isinstance(matrix, PackedMatrix) or name in widened):
            own = checkpoint.dtype_of_most  # not that of scales that go
        if name.endswith(".A_log"):
            own = mx.float32
        elif name in norms:
            own = norms[name]
        elif dtype is not None and not name.endswith(KEPT):
            own = dtype
        raw = bool(norms) and (name in norms or name.endswith(".conv1d.weight"))
        search = recipe is not None and recipe.search
        plans.append(TensorPlan(name, shape, own, target, carried, raw, search))
    return plans


def _norm_dtypes(checkpoint: Checkpoint, dtype: mx.Dtype | None) -> dict[str, mx.Dtype]:
    """The dtype in which w of each norm (1 + w) is written; {} if not all give the norm again.

    Without a `dtype`, it is the narrowest that loses nothing. No norm is read whose file tells.
    """
    dtypes: dict[str, mx.Dtype] = {}
    for name in filter(is_zero_centred_norm, checkpoint.expected):
        if dtype or stores_weight(checkpoint.plain(name), checkpoint.dtype_of_most):
            dtypes[name] = dtype or checkpoint.dtype_of_most
            continue
        norm, weight = checkpoint.read(name), zero_centred(checkpoint.plain(name))
        for candidate in (checkpoint.dtype_of_most, mx.float32):
            written = weight.astype(candidate).astype(mx.float32)
            if mx.array_equal(written + 1, norm):
                dtypes[name] = candidate
                break
        else:
            return {}
    return dtypes


def plan_files(plans: Sequence[TensorPlan]) -> dict[str, list[TensorPlan]]:
    """Tensors by file name: shards of limited size, and one file for the MTP head."""
    files = shards([plan for plan in plans if not plan.name.startswith("mtp.")])
    # mlx-lm reads model*.safetensors, so it does not read this file.
    if mtp := [plan for plan in plans if plan.name.startswith("mtp.")]:
        files[MTP_FILE] = mtp
    return files


def shards(plans: Sequence[_Planned]) -> dict[str, list[_Planned]]:
    """Tensors by file name: shards of limited size."""
    groups: list[list[_Planned]] = [[]]
    size = 0
    for plan in plans:
        if groups[-1] and size + plan.nbytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(plan)
        size += plan.nbytes
    total = len(groups)
    # Both names are mlx-lm's, and the second is Hugging Face's.
    return {
        f"model-{i:05d}-of-{total:05d}.safetensors" if total > 1 else "model.safetensors": group
        for i, group in enumerate(groups, 1)
    }


def plan_config(
    checkpoint: Checkpoint, plans: Sequence[TensorPlan], recipe: Recipe | None
) -> dict[str, Any]:
    """config.json of the result: nested like that of a multimodal model, as mlx-lm expects.

    Args:
        recipe: by which the matrices were quantised, if they were.
    """
    config = resolved(checkpoint.config, checkpoint.model)
    if "text_config" not in config:
        shared = {key: config[key] for key in ("architectures", "eos_token_id") if key in config}
        model_type = config["model_type"].removesuffix("_text")
        config = {**shared, "model_type": model_type, "text_config": config}
    text_config = config["text_config"]
    for key in ("_name_or_path", "vision_config", "quantization", "quantization_config"):
        config.pop(key, None)
        text_config.pop(key, None)
    text_config["dtype"] = config_dtype(plans)
    for section in (config, text_config):
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = text_config["dtype"]
    if "full_attention" in checkpoint.model.layer_types:
        first = checkpoint.model.layer_types.index("full_attention")
        text_config.setdefault("full_attention_interval", first + 1)
    matrices = [plan for plan in plans if recipes.is_quantizable(plan.name, plan.shape)]
    chosen = Counter(plan.quantization for plan in matrices if plan.quantization)
    if chosen:
        default = (recipe and recipe.default) or chosen.most_common(1)[0][0]
        entry = _entry(default)
        for plan in matrices:
            if plan.quantization != default:
                entry[plan.module] = _entry(plan.quantization) if plan.quantization else False
        config["quantization"] = config["quantization_config"] = entry
    return config


def config_dtype(tensors: Sequence[PlannedTensor]) -> str:
    """The dtype that config.json names."""
    return _NAMES[_dtype_of_most(tensors)]


def _dtype_of_most(plans: Sequence[PlannedTensor]) -> mx.Dtype:
    """As `Checkpoint.dtype_of_most`, of the result."""
    return most_common_dtype(
        (spec.dtype, math.prod(spec.shape))
        for plan in plans
        for spec in plan.specs()
        if len(plan.shape) > 1 and spec.dtype in _NAMES
    )


def _entry(quantization: Quantization) -> dict[str, Any]:
    """A quantisation as config.json spells it."""
    return {
        "group_size": quantization.group_size,
        "bits": quantization.bits,
        "mode": quantization.mode,
    }
