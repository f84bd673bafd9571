"""Checkpoints of any layout, seen under one set of names.

Read are the layouts of Hugging Face (BF16 or float-8, multimodal or text-only, experts fused or one
by one) and of mlx-lm (plain or quantised). Canonical names are mlx-lm's without `language_model.`.
"""

import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.folder import (
    float8_block,
    mlx_quantization,
    read_config,
    weight_files,
    what_to_fetch,
)
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import BlockScales, Rows, Source, Stack, Whole
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import Shapes, mtp_tensors, trunk_tensors

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
_PACKED = {"weight": (mx.uint32,), "scales": (*_FLOATS, mx.uint8), "biases": _FLOATS}

_VISION = ("model.visual.", "visual.", "vision_tower.", "model.vision_tower.")
_VISION += tuple("language_model." + prefix for prefix in _VISION)

_EXPERTS = re.compile(
    r"(?P<mlp>.+\.mlp)\.experts\.(?:"
    r"(?P<expert>\d+)\.(?P<one>gate_proj|up_proj|down_proj)\.weight"
    r"|(?P<fused>gate_up_proj|down_proj)(?:\.weight)?)"
)


class Checkpoint:
    """A folder with config.json and safetensors files, opened with `Checkpoint.open`.

    Attributes:
        path: the folder.
        config: config.json as it is.
        model: the sizes it gives.
    """

    def __init__(self, path: Path, config: dict[str, Any], files: Mapping[str, FileTensor]):
        self.path = path
        self.config = config
        self.model = ModelConfig.from_dict(config)
        self._block = float8_block(config)
        self._default, overrides = mlx_quantization(config)
        self._overrides = {_canonical_module(raw): said for raw, said in overrides.items()}
        self._sources = self._arrange(files)

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read config.json and the headers of the weight files, no weights.

        Raises:
            Qwen35Error: a file is missing or damaged, or it is not a Qwen3.5 checkpoint in a
                layout or quantisation that is known here.
        """
        config = read_config(path)
        ModelConfig.from_dict(config)  # Before the weights: a wrong model is the better message.
        return cls(path, config, weight_files(path))

    def names(self) -> frozenset[str]:
        """Canonical names of all tensors, without those of the vision tower."""
        return frozenset(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._sources[name].shape

    def dtype(self, name: str) -> mx.Dtype:
        return self._sources[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows [start, stop) of axis 0, evaluated; only their bytes are read.

        Norms are (1 + w), as float32 where the file holds w. Float-8 comes as bfloat16.

        Raises:
            Qwen35Error: the file cannot be read (any more).
        """
        source = self._sources[name]
        if stop is None:
            stop = source.shape[0] if source.shape else 1
        return source.read(start, stop)

    @property
    def default_quantization(self) -> Quantization | None:
        """How most matrices are quantised, None if the checkpoint is not quantised for MLX."""
        return self._default

    @property
    def has_mtp(self) -> bool:
        """Whether there is a multi-token-prediction head."""
        return any(name.startswith("mtp.") for name in self._sources)

    @cached_property
    def expected(self) -> Shapes:
        """The plain tensors this model needs, those of the MTP head if it has one."""
        return trunk_tensors(self.model) | (mtp_tensors(self.model) if self.has_mtp else {})

    def quantization(self, module: str) -> Quantization | None:
        """How a canonical module path is quantised, None if it is plain."""
        if self._default is None or f"{module}.scales" not in self._sources:
            return None
        if module in self._overrides:
            return self._overrides[module]
        said = self._default
        # mlx-lm's files may name only the default where a module has another: the shapes decide.
        shape = self.expected.get(f"{module}.weight")
        weight = self._sources.get(f"{module}.weight")
        groups = self.shape(f"{module}.scales")[-1]
        if shape is None or weight is None or not groups:
            return said
        bits, group_size = weight.shape[-1] * 32 // shape[-1], shape[-1] // groups
        if self.dtype(f"{module}.scales") != mx.uint8:
            return Quantization(group_size, bits)
        kinds = {(4, 32): "mxfp4", (8, 32): "mxfp8", (4, 16): "nvfp4"}
        return Quantization(group_size, bits, kinds.get((bits, group_size), said.mode))

    def verify(self) -> None:
        """Check that the tensors are exactly those the model needs, from the headers alone.

        Raises:
            Qwen35Error: one is missing or too many, or has a wrong shape or dtype.
        """
        extra = set(self._sources)
        for name, shape in self.expected.items():
            module = name.removesuffix(".weight")
            packing = self.quantization(module) if recipes.is_matrix(name, shape) else None
            if packing is None:
                self._check(name, shape, _FLOATS)
                extra.discard(name)
                continue
            for last, packed in packing.packed(shape).items():
                self._check(f"{module}.{last}", packed, _PACKED[last])
                extra.discard(f"{module}.{last}")
        if extra:
            first = min(extra)
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise Qwen35Error(
                f"{self._sources[first].file.path} has the unknown tensor '{first}'{more}: "
                "are config.json and the weights of the same model?"
            )

    def _check(self, name: str, shape: tuple[int, ...], dtypes: tuple[mx.Dtype, ...]) -> None:
        source = self._sources.get(name)
        if source is None:
            raise Qwen35Error(f"{self.path} has no tensor '{name}': {what_to_fetch(self.path)}")
        if source.shape != shape:
            raise Qwen35Error(
                f"{source.file.path}: tensor '{name}' has shape {list(source.shape)} where "
                f"config.json asks for {list(shape)}: are they of the same model?"
            )
        if source.dtype not in dtypes:
            raise Qwen35Error(
                f"{source.file.path}: tensor '{name}' has the dtype {source.file.stored_dtype}, which its "
                "layout does not have there: fetch the checkpoint again or choose another"
            )

    def _arrange(self, files: Mapping[str, FileTensor]) -> dict[str, Source]:
        """Canonical names to sources."""
        tensors: dict[str, FileTensor] = {}
        for raw, tensor in files.items():
            name = canonical_name(raw)
            if name is None or (self.model.tie_word_embeddings and name.startswith("lm_head.")):
                continue
            if name in tensors:
                raise Qwen35Error(
                    f"{tensors[name].path} and {tensor.path} both hold '{name}': "
                    "remove the files that do not belong to this checkpoint"
                )
            tensors[name] = tensor
        centred = _is_centred(files, tensors)
        sources: dict[str, Source] = {}
        stacks: dict[str, dict[int, Rows]] = {}
        for name, tensor in tensors.items():
            scaled = tensors.get(name.removesuffix("_scale_inv"))
            if scaled is not tensor and scaled is not None and scaled.stored_dtype == "F8_E4M3":
                continue
            scales = self._scales(name, tensor, tensors)
            expert = _EXPERTS.fullmatch(name)
            if expert is None or len(tensor.shape) != (3 if expert["fused"] else 2):
                sources[name] = _single(name, tensor, scales, centred)
                continue
            stack = f"{expert['mlp']}.switch_mlp."
            if expert["one"]:
                place = stacks.setdefault(f"{stack}{expert['one']}.weight", {})
                place[int(expert["expert"])] = Rows(tensor, 0, tensor.shape[0], scales)
            elif expert["fused"] == "down_proj" and scales is None:
                sources[f"{stack}down_proj.weight"] = Whole(tensor, tensor.shape)
            else:
                both = expert["fused"] == "gate_up_proj"
                for half, part in enumerate(("gate_proj", "up_proj") if both else ("down_proj",)):
                    rows = _slabs(tensor, scales, half, halves=1 + both)
                    stacks[f"{stack}{part}.weight"] = dict(enumerate(rows))
        for name, parts in stacks.items():
            sources[name] = self._stack(name, parts)
        return sources

    def _stack(self, name: str, parts: dict[int, Rows]) -> Stack:
        for expert in range(max(self.model.num_experts, 1 + max(parts))):
            if expert not in parts:
                raise Qwen35Error(
                    f"{self.path} has no expert {expert} for '{name}': {what_to_fetch(self.path)}"
                )
            first, part = parts[0], parts[expert]
            if (part.shape, part.dtype) != (first.shape, first.dtype):
                raise Qwen35Error(
                    f"{part.file.path}: '{part.file.name}' is {part.file.stored_dtype} {list(part.shape)}, "
                    f"expert 0 is {first.file.stored_dtype} {list(first.shape)}: fetch the file again"
                )
        return Stack(tuple(parts[expert] for expert in sorted(parts)))

    def _scales(
        self, name: str, tensor: FileTensor, tensors: Mapping[str, FileTensor]
    ) -> BlockScales | None:
        """The block scales of a float-8 tensor."""
        if tensor.stored_dtype != "F8_E4M3":
            return None
        scales = tensors.get(name + "_scale_inv")
        if scales is None:
            raise Qwen35Error(
                f"{tensor.path}: float-8 tensor '{tensor.name}' has no '{tensor.name}_scale_inv': "
                "only FP8 checkpoints with scales per block are read, choose one of those or BF16"
            )
        high, wide = self._block
        *stack, rows, columns = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
        wanted = (*stack, math.ceil(rows / high), math.ceil(columns / wide))
        if scales.shape != wanted or scales.dtype not in _FLOATS:
            raise Qwen35Error(
                f"{scales.path}: '{scales.name}' is {scales.stored_dtype} {list(scales.shape)} where "
                f"blocks of {high}x{wide} need floats {list(wanted)}: fetch the checkpoint again"
            )
        flat = FileTensor(
            scales.path,
            scales.name,
            scales.stored_dtype,
            (math.prod(wanted[:-1]), wanted[-1]),
            scales.offset,
        )
        return BlockScales(flat, self._block)


def canonical_name(raw: str) -> str | None:
    """A file's tensor name as this project spells it, None for what the text model does not use."""
    if raw.startswith(_VISION) or raw.endswith(".rotary_emb.inv_freq"):
        return None
    for prefix, instead in (
        ("model.language_model.", "model."),
        ("language_model.", ""),
    ):
        if raw.startswith(prefix):
            return instead + raw.removeprefix(prefix)
    return raw


def _canonical_module(raw: str) -> str:
    return (canonical_name(f"{raw}.weight") or raw).removesuffix(".weight")


def _is_centred(files: Mapping[str, FileTensor], tensors: Mapping[str, FileTensor]) -> bool:
    """Whether norms are stored as w, for (1 + w): they are exactly where convolutions are raw.

    Without a convolution to look at, mlx-lm's own prefix tells.
    """
    convolutions = [t for name, t in tensors.items() if name.endswith(".conv1d.weight")]
    if convolutions:
        return any(t.shape[-1:] != (1,) for t in convolutions)
    return not any(raw.startswith("language_model.") for raw in files)


def _single(name: str, tensor: FileTensor, scales: BlockScales | None, centred: bool) -> Source:
    """The source of a tensor that is no expert."""
    if scales is not None and len(tensor.shape) == 2:
        return Rows(tensor, 0, tensor.shape[0], scales)
    shape = tensor.shape
    if name.endswith(".conv1d.weight") and len(shape) == 3 and shape[1] == 1:
        shape = (shape[0], shape[2], 1)
    norm = name.endswith(".weight") and len(shape) == 1
    return Whole(
        tensor, shape, centred=centred and norm and not name.endswith("linear_attn.norm.weight")
    )


def _slabs(tensor: FileTensor, scales: BlockScales | None, half: int, halves: int) -> list[Rows]:
    """Per expert, one of the halves of the middle axis of a tensor [experts, rows, columns]."""
    experts, rows, _ = tensor.shape
    count = rows // halves
    slabs = []
    for expert in range(experts):
        own = scales and BlockScales(
            scales.tensor,
            scales.block,
            first=expert * math.ceil(rows / scales.block[0]),
            skipped=half * count,
        )
        slabs.append(Rows(tensor, expert * rows + half * count, count, own))
    return slabs
