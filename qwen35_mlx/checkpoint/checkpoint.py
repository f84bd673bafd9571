"""A checkpoint of any supported layout, under one set of names.

Canonical names are mlx-lm's, without the prefix `language_model.`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from qwen35_mlx.checkpoint.layouts import Parts, read_layout
from qwen35_mlx.checkpoint.names import canonical_name
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import (
    Float8Matrix,
    Matrix,
    PackedMatrix,
    RowReader,
    WholeTensor,
    plain,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import Shapes, mtp_tensors, trunk_tensors

_FLOAT8 = "F8_E4M3"
_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Dtypes of the parts of a quantised matrix; mxfp4, mxfp8 and nvfp4 have float-8 scales, as bytes.
_PACKED = {"weight": (mx.uint32,), "scales": (*_FLOATS, mx.uint8), "biases": _FLOATS}


class Checkpoint:
    """A folder with config.json and safetensors files, opened with `Checkpoint.open`.

    Attributes:
        path: the folder.
        config: config.json as it is, but for what describes the packing of rotated matrices.
        model: the same, parsed.
        matrices: the tensors of the text network, by the canonical name of the plain tensor.
        notes: lines for the user on what the files hold and is not read.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        matrices: Mapping[str, Matrix],
        notes: tuple[str, ...] = (),
    ):
        self.path = path
        self.config = config
        self.model = ModelConfig.from_dict(config)
        self.matrices = matrices
        self.notes = notes
        self._readers: dict[str, RowReader] = {}
        for name, matrix in matrices.items():
            if isinstance(matrix, PackedMatrix):
                module = name.removesuffix(".weight")
                self._readers |= {f"{module}.{end}": part for end, part in matrix.parts.items()}
            else:
                self._readers[name] = matrix

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read config.json and the headers of the weight files, but no weights.

        Raises:
            Qwen35Error: a file is missing or damaged, or it is not a Qwen3.5 checkpoint in a
                supported layout or quantisation.
        """
        config = read_config(path)
        # Before the weights: "not Qwen3.5" is a better message than what they would lead to.
        model = ModelConfig.from_dict(config)
        stored_format = _FolderFormat(config, model)
        layout = read_layout(
            weight_files(path),
            path,
            model.num_experts,
            model.tie_word_embeddings,
            stored_format.read,
        )
        if stored_format.blocks:
            config = hadamard.plain_config(config)
        return cls(path, config, layout.matrices, _unread_note(layout.unread))

    def names(self) -> frozenset[str]:
        """Canonical names of all tensors; those of a packed matrix are its parts."""
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

    def plain(self, name: str) -> RowReader:
        """The plain values of a tensor by its canonical name, whether it is packed or not."""
        return plain(self.matrices[name])

    @cached_property
    def dtype_of_most(self) -> mx.Dtype:
        """The dtype of most weights, or of their scales."""
        sizes = [
            (plain(matrix).dtype, math.prod(matrix.shape))
            for matrix in self.matrices.values()
            if len(matrix.shape) > 1
            and not (isinstance(matrix, PackedMatrix) and matrix.quantization.mode != "affine")
        ]
        return most_common_dtype(sizes)

    @property
    def is_quantized(self) -> bool:
        """Whether a matrix is packed as MLX does."""
        return any(isinstance(matrix, PackedMatrix) for matrix in self.matrices.values())

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
        matrix = self.matrices.get(f"{module}.weight")
        return matrix.quantization if isinstance(matrix, PackedMatrix) else None

    def rotation(self, module: str) -> HadamardRotation | None:
        """What the packed rows of a module are rotated by; None if they are not.

        Raises:
            Qwen35Error: the file cannot be read, or a sign is neither 1 nor -1.
        """
        matrix = self.matrices.get(f"{module}.weight")
        rotation = matrix.rotation if isinstance(matrix, PackedMatrix) else None
        return None if rotation is None else rotation.load()

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


class _FolderFormat:
    """How the safetensors files of a folder store matrices, by config.json and the tensors.

    Attributes:
        blocks: of the modules that a list in config.json names; see `formats.hadamard`.
    """

    def __init__(self, config: dict[str, Any], model: ModelConfig):
        self._block_shape = float8_block_shape(config)
        self._default, overrides = mlx_quantization(config)
        self._overrides = {_canonical_module(name): value for name, value in overrides.items()}
        self._shapes = trunk_tensors(model) | mtp_tensors(model)
        self.blocks = hadamard.blocks_by_module(config, self._shapes)

    def read(self, module: str, parts: Parts) -> tuple[Matrix | None, set[str]]:
        """A `Format` of `layouts`."""
        matrix, rest = self._read(module, parts)
        block = self.blocks.get(module)
        if block is None:
            return matrix, rest
        signs = parts.get("signs") if block else None
        reader = None if signs is None else WholeTensor(signs, signs.shape)
        matrix = hadamard.rotated(module, matrix, block, reader)
        return matrix, rest if signs is None else rest - {"signs"}

    def _read(self, module: str, parts: Parts) -> tuple[Matrix | None, set[str]]:
        weight = parts.get("weight")
        if weight is None:
            return None, set(parts)
        if "scales" in parts and self._overrides.get(module, True):
            return self._packed(module, parts)
        if weight.stored_dtype == _FLOAT8:
            return self._float8(weight, parts)
        return WholeTensor(weight, weight.shape), set(parts) - {"weight"}

    def _packed(self, module: str, parts: Parts) -> tuple[Matrix | None, set[str]]:
        """A matrix as `mx.quantize` packs it, of which no module but an expected one may be."""
        shape = self._shapes.get(f"{module}.weight")
        if shape is None:
            return None, set(parts)
        quantization = self._overrides.get(module) or self._inferred(parts, shape[-1])
        ends = [end for end in quantization.packed(shape) if end in parts]
        readers = {end: WholeTensor(parts[end], parts[end].shape) for end in ends}
        return PackedMatrix(shape, quantization, readers), set(parts) - set(ends)

    def _inferred(self, parts: Parts, columns: int) -> Quantization:
        """The quantisation that the shapes of a matrix show.

        config.json of mlx-lm may name only the default where a module differs.
        """
        default = self._default or recipes.quantization()
        words, groups = (
            parts[end].shape[-1] if parts[end].shape else 0 for end in ("weight", "scales")
        )
        bits, group_size = words * 32 // columns, columns // groups if groups else 0
        mode = "affine"
        if parts["scales"].dtype == mx.uint8:
            modes = {(4, 32): "mxfp4", (8, 32): "mxfp8", (4, 16): "nvfp4"}
            mode = modes.get((bits, group_size), default.mode)
        try:
            return recipes.quantization(mode, bits, group_size)
        except Qwen35Error:
            return default  # which these shapes do not fit: `verify` names the tensor

    def _float8(self, weight: FileTensor, parts: Parts) -> tuple[Matrix, set[str]]:
        scales = parts.get("weight_scale_inv")
        if scales is None:
            raise Qwen35Error(
                f"{weight.path}: float-8 tensor '{weight.name}' has no "
                f"'{weight.name}_scale_inv': "
                "only FP8 checkpoints with scales per block are read, choose one of those or BF16"
            )
        if len(weight.shape) != 2:
            raise Qwen35Error(
                f"{weight.path}: float-8 tensor '{weight.name}' has the shape "
                f"{list(weight.shape)} of no matrix: fetch the checkpoint again"
            )
        block_rows, block_columns = self._block_shape
        rows, columns = weight.shape
        shape = (math.ceil(rows / block_rows), math.ceil(columns / block_columns))
        if scales.shape != shape or scales.dtype not in _FLOATS:
            raise Qwen35Error(
                f"{scales.path}: '{scales.name}' is {scales.stored_dtype} {list(scales.shape)} "
                f"where blocks of {block_rows}x{block_columns} need floats {list(shape)}: "
                "fetch the checkpoint again"
            )
        rest = set(parts) - {"weight", "weight_scale_inv"}
        return Float8Matrix(weight, scales, self._block_shape), rest


def most_common_dtype(sizes: Iterable[tuple[mx.Dtype, int]]) -> mx.Dtype:
    """The dtype of most elements, of pairs of dtype and elements; bfloat16 of none."""
    elements: Counter[mx.Dtype] = Counter()
    for dtype, size in sizes:
        elements[dtype] += size
    return max(elements, key=lambda dtype: elements[dtype], default=mx.bfloat16)


def _canonical_module(stored_name: str) -> str:
    return (canonical_name(f"{stored_name}.weight") or stored_name).removesuffix(".weight")


def _unread_note(unread: Sequence[str]) -> tuple[str, ...]:
    if not unread:
        return ()
    more = f" and {len(unread) - 1} more tensors" if unread[1:] else ""
    return (f"not read, as only other programs use them: '{unread[0]}'{more}",)
