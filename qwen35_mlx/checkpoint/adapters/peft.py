"""Adapters of PEFT: adapter_model.safetensors and adapter_config.json.

W + scale * B @ A, where `lora_A.weight` is A [rank, in] and `lora_B.weight` B [out, rank]; of the
embeddings, `lora_embedding_A` [rank, vocabulary] and `lora_embedding_B` [hidden, rank] make the
transposed matrix. scale is lora_alpha / rank, or lora_alpha / sqrt(rank) with use_rslora. DoRA's
`lora_magnitude_vector` is [out].

The experts of a layer are one parameter (`target_parameters`), for which A is
[experts * rank, in] with the ranks of an expert side by side, and B [out, rank * experts] with the
experts of a rank side by side. PEFT 0.19.0 and older took the parameter for [experts, in, out]:
there A has `out` columns, and B `in` rows. Two parameters of one module have the same names but for
a `base_layer`, whose place depends on the version: only their shapes say which is which.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
from qwen35_mlx.checkpoint.adapters.peft_settings import PeftSettings
from qwen35_mlx.checkpoint.names import EXPERTS, canonical_name
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import WholeTensor
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.untrusted_json import Fields

WEIGHTS = "adapter_model.safetensors"
_EMBEDDINGS = "model.embed_tokens.weight"
_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?:\.(?P<end>weight|bias))?"
)
_SAVED = re.compile(r"\.modules_to_save(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?=\.)")
_ORIGINAL = ".original_module."


def is_adapter_tensor(name: str) -> bool:
    """Whether a tensor belongs to an adapter, by its name in a file."""
    return bool(_LORA.fullmatch(name) or _SAVED.search(name))


def read_peft(
    file: Path, config: Fields, tensors: Mapping[str, FileTensor], target: Target
) -> Adapter:
    """The adapter in a file.

    Args:
        config: adapter_config.json.
        tensors: of the adapter.

    Raises:
        Qwen35Error: it is of an unknown kind, incomplete, or does not fit the model.
    """
    settings = PeftSettings(config)
    settings.check()
    base = config.text("base_model_name_or_path", "")
    modules: dict[str, dict[str, FileTensor]] = {}
    whole: dict[str, FileTensor] = {}
    left_out: list[str] = []
    adapters: set[str] = set()
    for name, tensor in tensors.items():
        match = _LORA.fullmatch(name)
        saved = _SAVED.search(name)
        adapters |= {one["adapter"] for one in (match, saved) if one and one["adapter"]}
        if canonical_name(f"{match['module']}.weight" if match else name) is None:
            left_out.append(name)
        elif match and match["end"] == "bias":
            raise no_target(tensor, f"{match['module']}.bias", base)
        elif match:
            modules.setdefault(match["module"], {})[match["part"]] = tensor
        elif _ORIGINAL not in name:
            whole[_SAVED.sub("", name)] = tensor
    if len(adapters) > 1:
        raise Qwen35Error(
            f"{file} holds the adapters {', '.join(map(shown, sorted(adapters)))}: save one alone"
        )
    reader = _Reader(file, settings, target, base)
    experts: dict[str, dict[int, Change]] = {}
    changes: dict[str, Change] = {}
    for module, parts in modules.items():
        for name, expert, change in reader.changes(module, parts):
            if expert is not None:
                experts.setdefault(name, {})[expert] = change
            elif changes.setdefault(name, change) is not change:
                raise Qwen35Error(
                    f"{file}: '{changes[name].file.name}' and '{change.file.name}' both change "
                    f"'{name}': fetch the adapter again"
                )
    for name, own in experts.items():
        changes[name] = _stacked(name, own, target.shapes[name], base)
    replaced = read_replacements(whole, file.parent, target.experts)
    tied = target.tied and not config.flag("ensure_weight_tying")
    if tied and _EMBEDDINGS in {*changes, *replaced}:
        raise Qwen35Error(
            f"{file} changes the embeddings but not the output head, which are one tensor in this "
            "model: merge the adapter with PEFT's merge_and_unload, and load the result"
        )
    return Adapter(file, changes, replaced, left_out, base)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes changes of the tensors of a module."""

    file: Path
    settings: PeftSettings
    target: Target
    base: str

    def changes(
        self, module: str, parts: Mapping[str, FileTensor]
    ) -> list[tuple[str, int | None, Change]]:
        """Canonical name, expert (None if it is not of one alone) and change."""
        name = canonical_name(f"{module}.weight") or ""
        name = name.removesuffix(".weight")
        while name.endswith(".base_layer"):
            name = name.removesuffix(".base_layer")
        match = EXPERTS.fullmatch(name)
        mlp = match["mlp"] if match else name.removesuffix(".experts")
        stack = f"{mlp}.switch_mlp."
        if match and match["projection"]:
            return [self._of_one_expert(stack, match, module, parts)]
        if match or name.endswith(".mlp.experts"):
            return self._of_all_experts(stack, match["fused"] if match else "", module, parts)
        name = f"{name}.weight"
        shape = self._shape(name, parts)
        if "embedding_A" in parts or "embedding_B" in parts:
            if name != _EMBEDDINGS:
                raise no_target(next(iter(parts.values())), name, self.base)
            a, b = self._pair(parts, "embedding_A", "embedding_B")
            if "magnitude_vector" in parts:
                raise misfit(parts["magnitude_vector"], name, shape, self.base)
            rank, scale = self._scale(module, name, a, b, (shape[1], shape[0]), shape)
            return [(name, None, Change(a, rank, scale, lambda: (_read(a).T, _read(b).T)))]
        return [(name, None, self._linear(module, name, parts, shape))]

    def _linear(
        self, module: str, name: str, parts: Mapping[str, FileTensor], shape: tuple[int, ...]
    ) -> Change:
        a, b = self._pair(parts, "A", "B")
        if len(shape) != 2:
            raise misfit(a, name, shape, self.base)
        rank, scale = self._scale(module, name, a, b, shape, shape)
        magnitude = parts.get("magnitude_vector")
        if magnitude is not None and (magnitude.size, magnitude.dtype in FLOATS) != (
            shape[0],
            True,
        ):
            raise misfit(magnitude, name, shape, self.base)
        if magnitude is None and self.settings.is_dora:
            raise Qwen35Error(
                f"{self.file} has no lora_magnitude_vector for '{name}': fetch the adapter again"
            )
        length = magnitude and WholeTensor(magnitude, (shape[0],))
        return Change(a, rank, scale, lambda: (_read(b), _read(a)), length)

    def _of_one_expert(
        self, stack: str, match: "re.Match[str]", module: str, parts: Mapping[str, FileTensor]
    ) -> tuple[str, int, Change]:
        name = f"{stack}{match['projection']}.weight"
        shape = self._shape(name, parts)
        expert = int(match["expert"])
        if expert >= shape[0]:
            raise no_target(next(iter(parts.values())), f"{name} of expert {expert}", self.base)
        change = self._linear(module, name, parts, shape[1:])
        if change.magnitude is not None:
            raise misfit(parts["magnitude_vector"], name, shape, self.base)
        return name, expert, change

    def _of_all_experts(
        self, stack: str, fused: str, module: str, parts: Mapping[str, FileTensor]
    ) -> list[tuple[str, int | None, Change]]:
        a, b = self._pair(parts, "A", "B")
        experts, width, hidden = self._shape(f"{stack}gate_proj.weight", parts)
        if "magnitude_vector" in parts:
            raise misfit(
                parts["magnitude_vector"], f"{stack}*", (experts, width, hidden), self.base
            )
        shapes = {
            "gate_up_proj": (2 * width, hidden),
            "gate_proj": (width, hidden),
            "up_proj": (width, hidden),
            "down_proj": (hidden, width),
        }
        names = [fused] if fused else ["gate_up_proj", "down_proj"]
        sizes = b.shape[0], a.shape[1]
        found = [(n, t) for n in names for t in (False, True) if sizes == shapes[n][:: 1 - 2 * t]]
        if not found:
            raise misfit(a, f"{stack}*", (experts, *shapes[names[0]]), self.base)
        projection, transposed = found[0]
        if len(found) == 2:
            transposed = self.settings.takes_rows_for_inputs(a)
        rank = a.shape[0] // experts
        rows, _ = shape = shapes[projection]
        wanted = [(rank * experts, shape[not transposed]), (shape[transposed], rank * experts)]
        if [a.shape, b.shape] != wanted or not rank:
            raise misfit(a, f"{stack}*", (experts, *shape), self.base)
        scale = self.settings.scaling(module if fused else f"{module}.{projection}", rank, a)
        halves = 2 if projection == "gate_up_proj" else 1
        projections = ("gate_proj", "up_proj") if halves == 2 else (projection,)
        return [
            (
                f"{stack}{own}.weight",
                None,
                Change(
                    a,
                    rank,
                    scale,
                    _StackFactors(a, b, experts, transposed, half * rows // halves, rows // halves),
                ),
            )
            for half, own in enumerate(projections)
        ]

    def _shape(self, name: str, parts: Mapping[str, FileTensor]) -> tuple[int, ...]:
        shape = self.target.shapes.get(name)
        if shape is None:
            raise no_target(next(iter(parts.values())), name, self.base)
        return shape

    def _pair(
        self, parts: Mapping[str, FileTensor], one: str, other: str
    ) -> tuple[FileTensor, FileTensor]:
        for part in (one, other):
            if part not in parts:
                name = next(iter(parts.values())).name
                raise Qwen35Error(
                    f"{self.file} has '{name}', but no lora_{part} with it: fetch the adapter again"
                )
        pair = parts[one], parts[other]
        for tensor in pair:
            if len(tensor.shape) != 2 or tensor.dtype not in FLOATS:
                raise Qwen35Error(
                    f"{self.file}: '{tensor.name}' is {tensor.stored_dtype} {list(tensor.shape)}, "
                    "not a matrix of floats: fetch the adapter again"
                )
        return pair

    def _scale(
        self,
        module: str,
        name: str,
        a: FileTensor,
        b: FileTensor,
        sizes: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> tuple[int, float]:
        """Rank and scale of B [sizes[0], rank] @ A [rank, sizes[1]], checked."""
        rank = a.shape[0]
        if a.shape[1] != sizes[1] or not rank:
            raise misfit(a, name, shape, self.base)
        if b.shape != (sizes[0], rank):
            raise misfit(b, name, shape, self.base)
        return rank, self.settings.scaling(module, rank, a)


@dataclass(frozen=True, slots=True)
class _StackFactors:
    """Factors of the rows from `first` on of all experts' matrices."""

    a: FileTensor
    b: FileTensor
    experts: int
    transposed: bool
    first: int
    count: int

    def __call__(self) -> Factors:
        down = _read(self.a).reshape(self.experts, -1, self.a.shape[1])
        up = _read(self.b).reshape(self.b.shape[0], -1, self.experts).transpose(2, 0, 1)
        if self.transposed:
            up, down = down.swapaxes(1, 2), up.swapaxes(1, 2)
        return up[:, self.first : self.first + self.count], down


def _stacked(name: str, experts: Mapping[int, Change], shape: tuple[int, ...], base: str) -> Change:
    """One change of a stack, of those of its experts; experts without one stay as they are."""
    first = next(iter(experts.values()))
    for change in experts.values():
        if (change.rank, change.scale) != (first.rank, first.scale):
            raise misfit(change.file, name, shape, base)

    def factors() -> Factors:
        pairs = {expert: change.factors() for expert, change in experts.items()}
        nothing = mx.zeros((shape[1], first.rank)), mx.zeros((first.rank, shape[2]))
        every = [pairs.get(expert, nothing) for expert in range(shape[0])]
        return mx.stack([up for up, _ in every]), mx.stack([down for _, down in every])

    return Change(first.file, first.rank, first.scale, factors)


def _read(tensor: FileTensor) -> mx.array:
    return tensor.read().astype(mx.float32)
