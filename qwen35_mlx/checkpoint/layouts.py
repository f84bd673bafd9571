"""Checkpoints of every supported layout, under one set of names.

Supported are the layouts of Hugging Face (BF16 or float-8, multimodal or text-only, experts fused
or one by one) and of mlx-lm (plain or quantised). Canonical names are mlx-lm's, without the prefix
`language_model.`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.folder import (
    float8_block_shape,
    missing_tensor_advice,
    mlx_quantization,
    read_config,
    weight_files,
)
from qwen35_mlx.checkpoint.formats import hadamard
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import (
    Dequantized,
    ExpertStack,
    Float8Scales,
    PackedMatrix,
    RowRange,
    RowReader,
    StoredTensor,
    WholeTensor,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import Shapes, mtp_tensors, trunk_tensors

_FLOAT8 = "F8_E4M3"
_SCALE_SUFFIX = "_scale_inv"
_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Dtypes of the parts of a quantised matrix; mxfp4, mxfp8 and nvfp4 have float-8 scales, as bytes.
_PACKED = {"weight": (mx.uint32,), "scales": (*_FLOATS, mx.uint8), "biases": _FLOATS}

_VISION_PREFIXES = ("model.visual.", "visual.", "vision_tower.", "model.vision_tower.")
_VISION_PREFIXES += tuple("language_model." + prefix for prefix in _VISION_PREFIXES)

# Expert tensors of Hugging Face: one per expert and projection, or one for all experts in which
# gate and up may be fused.
_EXPERTS = re.compile(
    r"(?P<mlp>.+\.mlp)\.experts\.(?:"
    r"(?P<expert>0|[1-9][0-9]{0,5})\.(?P<projection>gate_proj|up_proj|down_proj)\.weight"
    r"|(?P<fused>gate_up_proj|down_proj)(?:\.weight)?)"
)


class Checkpoint:
    """A folder with config.json and safetensors files, opened with `Checkpoint.open`.

    Attributes:
        path: the folder.
        config: config.json as it is.
        model: the same, parsed.
    """

    def __init__(self, path: Path, config: dict[str, Any], files: Mapping[str, FileTensor]):
        self.path = path
        self.config = config
        self.model = ModelConfig.from_dict(config)
        self._block_shape = float8_block_shape(config)
        self._default, overrides = mlx_quantization(config)
        self._overrides = {_canonical_module(name): value for name, value in overrides.items()}
        self._readers = self._make_readers(files)
        self._rotations = self._take_rotations()

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read config.json and the headers of the weight files, but no weights.

        Raises:
            Qwen35Error: a file is missing or damaged, or it is not a Qwen3.5 checkpoint in a
                supported layout or quantisation.
        """
        config = read_config(path)
        # Before the weights: "not Qwen3.5" is a better message than what they would lead to.
        ModelConfig.from_dict(config)
        return cls(path, config, weight_files(path))

    def names(self) -> frozenset[str]:
        """Canonical names of all tensors but those of the vision tower."""
        return frozenset(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor as `read` returns it."""
        return self._readers[name].shape

    def dtype(self, name: str) -> mx.Dtype:
        """The dtype of a tensor as `read` returns it."""
        return self._readers[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows [start, stop) of axis 0, evaluated; only their bytes are read.

        A norm's weight is (1 + w): float32 where the file holds w, else as stored. Float-8
        becomes bfloat16.

        Raises:
            Qwen35Error: the file cannot be read.
        """
        reader = self._readers[name]
        if stop is None:
            stop = reader.shape[0] if reader.shape else 1
        return reader.read(start, stop)

    @property
    def default_quantization(self) -> Quantization | None:
        """How most matrices are quantised; None if the checkpoint is not quantised for MLX."""
        return self._default

    @property
    def has_mtp(self) -> bool:
        """Whether the checkpoint has a multi-token-prediction head."""
        return any(name.startswith("mtp.") for name in self._readers)

    @cached_property
    def expected(self) -> Shapes:
        """Shapes of the plain tensors that this model needs, with an MTP head if there is one."""
        return trunk_tensors(self.model) | (mtp_tensors(self.model) if self.has_mtp else {})

    def quantization(self, module: str) -> Quantization | None:
        """How the module of a canonical name is quantised; None if it is plain."""
        if self._default is None or f"{module}.scales" not in self._readers:
            return None
        if module in self._overrides:
            return self._overrides[module]
        # mlx-lm's config.json may name only the default where a module differs: the shapes decide.
        plain_shape = self.expected.get(f"{module}.weight")
        packed = self._readers.get(f"{module}.weight")
        if plain_shape is None or packed is None:
            return self._default
        columns = plain_shape[-1]
        words, groups = (
            (shape[-1] if shape else 0) for shape in (packed.shape, self.shape(f"{module}.scales"))
        )
        bits, group_size = words * 32 // columns, columns // groups if groups else 0
        mode = "affine"
        if self.dtype(f"{module}.scales") == mx.uint8:
            modes = {(4, 32): "mxfp4", (8, 32): "mxfp8", (4, 16): "nvfp4"}
            mode = modes.get((bits, group_size), self._default.mode)
        try:
            return recipes.quantization(mode, bits, group_size)
        except Qwen35Error:
            return self._default  # which these shapes do not fit: `verify` names the tensor

    def rotation(self, module: str) -> HadamardRotation | None:
        """What the packed rows of a module are rotated by; None if they are not.

        Raises:
            Qwen35Error: the file cannot be read, or a sign is neither 1 nor -1.
        """
        packed = self._rotations.get(module)
        return packed.rotation.load() if packed and packed.rotation else None

    def plain(self, module: str) -> RowReader:
        """The plain weight of a packed module, rotated back."""
        if module in self._rotations:
            return Dequantized(self._rotations[module])
        quantization = self.quantization(module)
        assert quantization is not None
        return Dequantized(self._packed(module, quantization))

    def _packed(self, module: str, quantization: Quantization) -> PackedMatrix:
        shape = self.expected[f"{module}.weight"]
        parts = {part: self._readers[f"{module}.{part}"] for part in quantization.packed(shape)}
        return PackedMatrix(shape, quantization, parts)

    def _take_rotations(self) -> dict[str, PackedMatrix]:
        """The rotated modules, whose signs are no longer tensors of their own."""
        found: dict[str, PackedMatrix] = {}
        for module, block in hadamard.blocks_by_module(self.config, self.expected).items():
            quantization = self.quantization(module)
            signs = self._readers.pop(f"{module}.signs", None) if block else None
            matrix = self._packed(module, quantization) if quantization else None
            packed = hadamard.rotated(module, matrix, block, signs)
            assert isinstance(packed, PackedMatrix)
            found[module] = packed
        return found

    def verify(self) -> None:
        """Check from the headers alone that the tensors are exactly those that the model needs.

        Raises:
            Qwen35Error: a tensor is missing, unknown, or of a wrong shape or dtype.
        """
        unknown = set(self._readers)
        for name, shape in self.expected.items():
            module = name.removesuffix(".weight")
            packing = self.quantization(module) if recipes.is_quantizable(name, shape) else None
            if packing is None:
                self._check(name, shape, _FLOATS)
                unknown.discard(name)
                continue
            for part, packed_shape in packing.packed(shape).items():
                self._check(f"{module}.{part}", packed_shape, _PACKED[part])
                unknown.discard(f"{module}.{part}")
        if unknown:
            first = min(unknown)
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise Qwen35Error(
                f"{self._readers[first].file.path} has the unknown tensor '{first}'{more}: "
                "are config.json and the weights of the same model?"
            )

    def _check(self, name: str, shape: tuple[int, ...], dtypes: tuple[mx.Dtype, ...]) -> None:
        reader = self._readers.get(name)
        if reader is None:
            advice = missing_tensor_advice(self.path)
            raise Qwen35Error(f"{self.path} has no tensor '{name}': {advice}")
        if reader.shape != shape:
            raise Qwen35Error(
                f"{reader.file.path}: tensor '{name}' has shape {list(reader.shape)} where "
                f"config.json asks for {list(shape)}: are they of the same model?"
            )
        if reader.dtype not in dtypes:
            raise Qwen35Error(
                f"{reader.file.path}: tensor '{name}' has the dtype {reader.file.stored_dtype}, "
                "which its layout does not have there: fetch the checkpoint again or choose another"
            )

    def _make_readers(self, files: Mapping[str, FileTensor]) -> dict[str, RowReader]:
        """Readers by canonical name, for tensors by their names in the files."""
        tensors = self._by_canonical_name(files)
        zero_centred = _norms_are_zero_centred(files, tensors)
        readers: dict[str, RowReader] = {}
        stacks: dict[str, dict[int, RowRange]] = {}  # name -> expert -> its matrix

        def add(name: str, reader: RowReader) -> None:
            other = readers.setdefault(name, reader)
            if other is not reader:
                raise _twice(name, other.file, reader.file)

        for name, tensor in tensors.items():
            if _is_float8_scale(name, tensors):
                continue
            scales = self._scales(name, tensor, tensors)
            match = _EXPERTS.fullmatch(name)
            if match is None or len(tensor.shape) != (3 if match["fused"] else 2):
                add(name, _single_reader(name, tensor, scales, zero_centred))
                continue
            prefix = f"{match['mlp']}.switch_mlp."
            if match["projection"]:
                stack = stacks.setdefault(f"{prefix}{match['projection']}.weight", {})
                stack[int(match["expert"])] = RowRange(tensor, 0, tensor.shape[0], scales)
            elif match["fused"] == "gate_up_proj":
                for half, projection in enumerate(("gate_proj", "up_proj")):
                    stack = _expert_matrices(tensor, scales, half, halves=2)
                    name = f"{prefix}{projection}.weight"
                    add(name, self._stack(name, stack))
            elif scales is None:
                add(f"{prefix}down_proj.weight", WholeTensor(tensor, tensor.shape))
            else:
                name = f"{prefix}down_proj.weight"
                add(name, self._stack(name, _expert_matrices(tensor, scales)))
        for name, stack in stacks.items():
            add(name, self._stack(name, stack))
        return readers

    def _by_canonical_name(self, files: Mapping[str, FileTensor]) -> dict[str, FileTensor]:
        """The tensors that the text model uses, by canonical name."""
        tensors: dict[str, FileTensor] = {}
        for stored_name, tensor in files.items():
            name = canonical_name(stored_name)
            if name is None or (self.model.tie_word_embeddings and name.startswith("lm_head.")):
                continue
            if name in tensors:
                raise _twice(name, tensors[name], tensor)
            tensors[name] = tensor
        return tensors

    def _stack(self, name: str, experts: dict[int, RowRange]) -> ExpertStack:
        """The matrices of all experts, which must be there and alike."""
        for expert in range(max(self.model.num_experts, 1 + max(experts, default=0))):
            if expert not in experts:
                advice = missing_tensor_advice(self.path)
                raise Qwen35Error(f"{self.path} has no expert {expert} for '{name}': {advice}")
            first, other = experts[0], experts[expert]
            if (other.shape, other.dtype) != (first.shape, first.dtype):
                raise Qwen35Error(
                    f"{other.file.path}: '{other.file.name}' is {other.file.stored_dtype} "
                    f"{list(other.shape)}, expert 0 is {first.file.stored_dtype} "
                    f"{list(first.shape)}: fetch the file again"
                )
        return ExpertStack(tuple(experts[expert] for expert in sorted(experts)))

    def _scales(
        self, name: str, tensor: FileTensor, tensors: Mapping[str, FileTensor]
    ) -> Float8Scales | None:
        """The block scales of a float-8 tensor; None for any other tensor."""
        if tensor.stored_dtype != _FLOAT8:
            return None
        scales = tensors.get(name + _SCALE_SUFFIX)
        if scales is None:
            raise Qwen35Error(
                f"{tensor.path}: float-8 tensor '{tensor.name}' has no "
                f"'{tensor.name}{_SCALE_SUFFIX}': "
                "only FP8 checkpoints with scales per block are read, choose one of those or BF16"
            )
        block_rows, block_columns = self._block_shape
        if not tensor.shape:
            raise Qwen35Error(
                f"{tensor.path}: float-8 tensor '{tensor.name}' has no rows: "
                "fetch the checkpoint again"
            )
        *leading, rows, columns = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
        shape = (*leading, math.ceil(rows / block_rows), math.ceil(columns / block_columns))
        if scales.shape != shape or scales.dtype not in _FLOATS:
            raise Qwen35Error(
                f"{scales.path}: '{scales.name}' is {scales.stored_dtype} {list(scales.shape)} "
                f"where blocks of {block_rows}x{block_columns} need floats {list(shape)}: "
                "fetch the checkpoint again"
            )
        matrix = replace(scales, shape=(math.prod(shape[:-1]), shape[-1]))
        return Float8Scales(matrix, self._block_shape)


def _twice(name: str, one: StoredTensor, other: StoredTensor) -> Qwen35Error:
    return Qwen35Error(
        f"{one.path} and {other.path} both hold '{name}': "
        "remove the files that do not belong to this checkpoint"
    )


def canonical_name(stored_name: str) -> str | None:
    """The canonical name of a tensor in a file; None for what the text model does not use."""
    if stored_name.startswith(_VISION_PREFIXES) or stored_name.endswith(".rotary_emb.inv_freq"):
        return None
    for prefix, replacement in (
        ("model.language_model.", "model."),
        ("language_model.", ""),
    ):
        if stored_name.startswith(prefix):
            return replacement + stored_name.removeprefix(prefix)
    return stored_name


def _canonical_module(stored_name: str) -> str:
    return (canonical_name(f"{stored_name}.weight") or stored_name).removesuffix(".weight")


def _is_float8_scale(name: str, tensors: Mapping[str, FileTensor]) -> bool:
    """Whether a tensor holds the scales of another, which is read together with it."""
    scaled = tensors.get(name.removesuffix(_SCALE_SUFFIX)) if name.endswith(_SCALE_SUFFIX) else None
    return scaled is not None and scaled.stored_dtype == _FLOAT8


def _norms_are_zero_centred(
    files: Mapping[str, FileTensor], tensors: Mapping[str, FileTensor]
) -> bool:
    """Whether the norms are stored as w, for (1 + w).

    They are wherever the convolutions have the layout of PyTorch, [channels, 1, kernel]: mlx-lm
    converts both. In a model without convolutions, mlx-lm's prefix decides.
    """
    convolutions = [t for name, t in tensors.items() if name.endswith(".conv1d.weight")]
    if convolutions:
        return any(t.shape[-1:] != (1,) for t in convolutions)
    return not any(stored_name.startswith("language_model.") for stored_name in files)


def _single_reader(
    name: str, tensor: FileTensor, scales: Float8Scales | None, zero_centred: bool
) -> RowReader:
    """The reader of a tensor that belongs to no expert."""
    if scales is not None and len(tensor.shape) == 2:
        return RowRange(tensor, 0, tensor.shape[0], scales)
    shape = tensor.shape
    if name.endswith(".conv1d.weight") and len(shape) == 3 and shape[1] == 1:
        shape = (shape[0], shape[2], 1)
    is_norm = name.endswith(".weight") and len(shape) == 1
    # The gated norm of a delta-net layer multiplies by w.
    is_gated_norm = name.endswith("linear_attn.norm.weight")
    return WholeTensor(tensor, shape, zero_centred and is_norm and not is_gated_norm)


def _expert_matrices(
    tensor: FileTensor, scales: Float8Scales | None, half: int = 0, halves: int = 1
) -> dict[int, RowRange]:
    """The matrix of each expert in a tensor [experts, rows, columns].

    Args:
        half: which of `halves` equal parts of the rows to take.

    Raises:
        Qwen35Error: the rows do not divide into `halves`.
    """
    experts, rows, _ = tensor.shape
    if rows % halves:
        raise Qwen35Error(
            f"{tensor.path}: '{tensor.name}' has {rows} rows, which are not {halves} matrices of "
            "equal size: fetch the checkpoint again"
        )
    count = rows // halves
    matrices = {}
    for expert in range(experts):
        expert_scales = scales and replace(
            scales,
            first_block_row=expert * math.ceil(rows / scales.block_shape[0]),
            first_row=half * count,
        )
        matrices[expert] = RowRange(tensor, expert * rows + half * count, count, expert_scales)
    return matrices
