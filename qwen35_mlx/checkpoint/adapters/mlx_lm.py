"""Adapters of mlx-lm: adapters.safetensors and adapter_config.json.

LoRA of a linear layer is `lora_a` [in, rank] and `lora_b` [rank, out], of the embeddings
[vocabulary, rank] and [rank, hidden], of a stack of experts [experts, rank, in] and
[experts, out, rank]. DoRA has `m` [out] as well. Full fine-tuning stores whole tensors in mlx-lm's
layout.
"""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from qwen35_mlx.checkpoint.adapters.adapter import (
    FLOATS,
    Adapter,
    Target,
    misfit,
    no_target,
    read_replacements,
)
from qwen35_mlx.checkpoint.adapters.low_rank import Change, Factors
from qwen35_mlx.checkpoint.names import canonical_name
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import WholeTensor
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.untrusted_json import Fields

WEIGHTS = "adapters.safetensors"
_PARTS = ("lora_a", "lora_b", "m")


def read_mlx_lm(
    file: Path, config: Fields, tensors: Mapping[str, FileTensor], target: Target
) -> Adapter:
    """The adapter in a file.

    Args:
        config: adapter_config.json.

    Raises:
        Qwen35Error: it is of an unknown kind, incomplete, or does not fit the model.
    """
    kind = config.text("fine_tune_type", "lora")
    base = config.text("model", "")
    if kind == "full":
        replaced = read_replacements(tensors, file.parent, target.experts)
        return Adapter(file, {}, replaced, base=base)
    if kind not in ("lora", "dora"):
        raise Qwen35Error(
            f"{config.source}: fine_tune_type {shown(kind)} is not known: use lora, dora or full"
        )
    parameters = config.section("lora_parameters")
    if parameters.values.get("scale") is None:
        raise Qwen35Error(
            f"{config.source}: lora_parameters has no scale, which mlx-lm writes: fetch it again"
        )
    scale = parameters.number("scale")
    modules: dict[str, dict[str, FileTensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part not in _PARTS:
            raise no_target(tensor, canonical_name(name) or name, base)
        modules.setdefault(module, {})[part] = tensor
    changes: dict[str, Change] = {}
    for module, parts in modules.items():
        name = canonical_name(f"{module}.weight") or module
        first = next(iter(parts.values()))
        if name not in target.shapes:
            raise no_target(first, name, base)
        missing = [part for part in _PARTS[: 2 if kind == "lora" else 3] if part not in parts]
        if missing:
            raise Qwen35Error(
                f"{file} has '{first.name}', but no {missing[0]}: fetch the adapter again"
            )
        changes[name] = _change(name, parts, scale, target.shapes[name], base)
    return Adapter(file, changes, {}, base=base)


def _change(
    name: str, parts: Mapping[str, FileTensor], scale: float, shape: tuple[int, ...], base: str
) -> Change:
    a, b, magnitude = parts["lora_a"], parts["lora_b"], parts.get("m")
    rank = a.shape[-2] if len(shape) == 3 and len(a.shape) == 3 else a.shape[-1] if a.shape else 0
    *stack, rows, columns = shape
    wanted: dict[FileTensor, tuple[int, ...]]
    if stack:
        wanted = {a: (*stack, rank, columns), b: (*stack, rows, rank)}
    elif name == "model.embed_tokens.weight":
        wanted = {a: (rows, rank), b: (rank, columns)}
    else:
        wanted = {a: (columns, rank), b: (rank, rows)}
    if magnitude:
        wanted[magnitude] = (rows,)
    for tensor, expected in wanted.items():
        if tensor.shape != expected or tensor.dtype not in FLOATS or not rank:
            raise misfit(tensor, name, shape, base)

    def factors() -> Factors:
        left, right = (tensor.read().astype(mx.float32) for tensor in (a, b))
        if stack:
            return right, left
        if name == "model.embed_tokens.weight":
            return left, right
        return right.T, left.T

    return Change(a, rank, scale, factors, WholeTensor(magnitude, (rows,)) if magnitude else None)
