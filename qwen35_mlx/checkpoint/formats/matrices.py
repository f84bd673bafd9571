"""The tensors of one module, as one matrix."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.formats import floats, integers
from qwen35_mlx.checkpoint.formats.damage import damaged
from qwen35_mlx.checkpoint.formats.method import Method
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, WholeTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization

# Scales of activations and of a quantised KV cache: the values of a matrix do not depend on them.
ACTIVATION_PARTS = frozenset(
    {
        *("input_scale", "input_global_scale", "input_zero_point", "activation_scale"),
        *("output_scale", "output_zero_point", "q_scale", "k_scale", "v_scale"),
    }
)
# Ends of the names of tensors that belong to one stored matrix.
PARTS = ACTIVATION_PARTS | {
    *("weight", "weight_packed", "qweight", "bias"),
    *("weight_scale_inv", "weight_scale", "scale", "scales", "biases"),
    *("weight_scale_2", "weight_global_scale"),
    *("weight_zero_point", "qzeros", "weight_g_idx", "g_idx", "weight_shape", "pre_quant_scale"),
    "signs",
}
_SCALES = ("weight_scale_inv", "weight_scale", "scale")
_FLOATS = ("F32", "F16", "BF16")
_FLOAT_BITS = {(4, 32): "mxfp4", (8, 32): "mxfp8", (4, 16): "nvfp4"}
_GPTQ_METHODS = ("gptq", "auto-round")
_GPTQ_BITS = (2, 3, 4, 8)
_MAX_BIAS = 1 << 24

# A stack of experts has no ".weight" in Hugging Face's names, and "_" before its other parts.
_FUSED_EXPERTS = re.compile(r"(.+\.experts\.(?:gate_up|gate|up|down)_proj)(?:_(\w+))?")


def split_name(name: str) -> tuple[str, str] | None:
    """The module and the part that a stored tensor is; None if it is no part of a module.

    "a.experts.down_proj" is the weight of that module, "a.experts.down_proj_scale_inv" its
    weight_scale_inv.
    """
    if match := _FUSED_EXPERTS.fullmatch(name):
        module, end = match.groups()
        ends = ("weight",) if end is None else (end, f"weight_{end}")
        return next(((module, part) for part in ends if part in PARTS), None)
    module, _, part = name.rpartition(".")
    return (module, part) if module and part in PARTS else None


def read_matrix(
    module: str,
    parts: Mapping[str, FileTensor],
    method: Method | None,
    columns: int | None = None,
) -> tuple[Matrix, list[str]]:
    """The matrix that the tensors of one module make, from their headers and a few small values.

    A weight of one axis, or a plain one of any shape, is read as stored.

    Args:
        module: its name, as stored or canonical.
        parts: by the end of their names, as `split_name` gives it.
        columns: of the plain matrix, where known: it tells MLX's packings apart.

    Returns:
        The matrix, and the parts that its values do not depend on.

    Raises:
        Qwen35Error: a part is missing, contradicts another, or is of a kind that is not supported.
    """
    parts = dict(parts)
    bias = parts.pop("bias", None)
    if bias is not None:
        _refuse_values(bias)
    unused = [name for name in parts if name in ACTIVATION_PARTS]
    stored = {name: tensor for name, tensor in parts.items() if name not in ACTIVATION_PARTS}
    return _Module(module, stored, method, columns).read(unused)


def _refuse_values(bias: FileTensor) -> None:
    """Accept a bias that is zero throughout, as GPTQ writes them."""
    if bias.stored_dtype not in _FLOATS or bias.size > _MAX_BIAS:
        raise damaged(bias, "which is no bias")
    if mx.any(bias.read() != 0).item():
        raise Qwen35Error(
            f"{bias.path}: '{bias.name}' is a bias that is not zero, and Qwen3.5 has none there: "
            "are config.json and the weights of the same model?"
        )


@dataclass(frozen=True, slots=True)
class _Module:
    """The parts of a module that its values depend on."""

    name: str
    parts: dict[str, FileTensor]
    method: Method | None
    columns: int | None

    def read(self, unused: list[str]) -> tuple[Matrix, list[str]]:
        any_part = next(iter(self.parts.values()), None)
        weight = self._one_of("weight", "weight_packed", "qweight")
        if any_part is None or weight is None:
            where = f"{any_part.path}: " if any_part else ""
            raise Qwen35Error(f"{where}'{self.name}' has no weight: fetch the checkpoint again")
        if "pre_quant_scale" in self.parts:
            raise damaged(self.parts["pre_quant_scale"], "a scale of inputs, not supported here")
        if weight is self.parts.get("weight") and weight.stored_dtype in _FLOATS:
            # Libraries that dequantise in place leave the scales behind.
            left = (*_SCALES, "weight_global_scale", "weight_zero_point", "weight_shape")
            unused += [name for name in self.parts if name in left]
            self._only("weight", *left)
            return WholeTensor(weight, weight.shape), unused
        if weight is self.parts.get("weight") and weight.stored_dtype == "U32":
            return self._mlx(weight), unused
        return self.matrix(), unused

    def _weight(self) -> FileTensor:
        return next(
            self.parts[n] for n in ("weight", "weight_packed", "qweight") if n in self.parts
        )

    def matrix(self) -> Matrix:
        """A quantised matrix of two axes."""
        weight = self._weight()
        if len(weight.shape) != 2 or not weight.size:
            raise damaged(weight, "which is no matrix")
        if "qweight" in self.parts:
            return self._gptq_or_awq(weight)
        packed = "weight_packed" in self.parts
        match weight.stored_dtype:
            case "I32" if packed:
                return self._pack_quantized(weight)
            case "U8":
                return self._float4(weight, "weight_packed" if packed else "weight")
            case "F8_E4M3" if not packed:
                self._only("weight", *_SCALES)
                return self._float8(weight)
            case "I8" if not packed:
                self._only("weight", *_SCALES, "weight_zero_point", "weight_shape")
                zeros = self.parts.get("weight_zero_point")
                return integers.int8(weight, self._needed(*_SCALES), zeros).matrix()
        raise damaged(weight, "a dtype that no supported quantisation has there")

    def _float8(self, weight: FileTensor) -> Matrix:
        scale = self._needed(*_SCALES)
        blocks = self.method.block_shapes if self.method else ()
        return floats.float8(weight, scale, blocks)

    def _float4(self, weight: FileTensor, name: str) -> Matrix:
        scale = self._needed("weight_scale")
        whole = "weight_global_scale", "weight_scale_2"
        self._only(name, "weight_scale", *whole, "weight_shape")
        divides = whole[0] in self.parts
        return floats.float4(weight, scale, self._one_of(*whole), divides)

    def _gptq_or_awq(self, weight: FileTensor) -> Matrix:
        scales, zeros = self._needed("scales"), self.parts.get("qzeros")
        self._only("qweight", "scales", "qzeros", "g_idx")
        _check_integers(weight, zeros)
        if len(scales.shape) != 2 or scales.stored_dtype not in _FLOATS or not scales.size:
            raise damaged(scales, "which are no scales of GPTQ or AWQ")
        groups, rows = scales.shape
        symmetric = self.method is not None and self.method.symmetric
        if weight.shape[1] * 8 == rows:
            return integers.awq(weight, scales, zeros, symmetric).matrix()
        if self.method is None or self.method.name not in _GPTQ_METHODS:
            # Nothing in the tensors says whether zero points are stored less one.
            raise damaged(weight, "but config.json names neither GPTQ nor AutoRound")
        if zeros is None:
            raise damaged(weight, "but its qzeros are missing")
        if len(zeros.shape) != 2 or weight.shape[1] != rows:
            raise damaged(weight, f"which does not fit its scales {list(scales.shape)}")
        bits = zeros.shape[1] * 32 // rows
        self._check_bits(weight, bits, _GPTQ_BITS)
        if zeros.shape != (groups, -(-rows * bits // 32)):
            raise damaged(zeros, f"which does not fit its scales {list(scales.shape)}")
        order = self.parts.get("g_idx")
        columns = weight.shape[0] * 32 // bits
        group_of = order and integers.read_group_of(order, columns, groups)
        less_one = self.method.zeros_less_one
        return integers.gptq(weight, scales, zeros, bits, group_of, symmetric, less_one).matrix()

    def _pack_quantized(self, weight: FileTensor) -> Matrix:
        scales, zeros = self._needed("weight_scale"), self.parts.get("weight_zero_point")
        self._only(
            *("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape")
        )
        _check_integers(weight, zeros)
        count = weight.shape[1]
        bits = self.method.bits if self.method else None
        if bits is not None:
            columns = count * 32 // bits
        else:
            columns = self._stored_columns()
            bits = count * 32 // columns
        self._check_bits(weight, bits, range(1, 9))
        order = self.parts.get("weight_g_idx")
        groups = scales.shape[1] if len(scales.shape) == 2 else 1
        group_of = order and integers.read_group_of(order, columns, groups)
        return integers.pack_quantized(weight, scales, zeros, group_of, columns, bits).matrix()

    def _stored_columns(self) -> int:
        """The row length that `weight_shape` gives."""
        shape = self._needed("weight_shape")
        if shape.stored_dtype not in ("I64", "I32") or not 2 <= shape.size <= 64:
            raise damaged(shape, "which is no shape")
        columns = int(np.array(shape.read()).reshape(-1)[-1])
        if not 0 < columns < 2**31:
            raise damaged(shape, f"with rows of {columns} columns")
        return columns

    def _check_bits(self, weight: FileTensor, bits: int, known: "range | tuple[int, ...]") -> None:
        stated = self.method.bits if self.method else None
        if stated is not None and bits != stated:
            raise damaged(weight, f"of {bits} bits, where config.json says {stated}")
        if bits not in known:
            raise damaged(weight, f"of {bits} bits, which are not supported")

    def _mlx(self, weight: FileTensor) -> PackedMatrix:
        scales = self._needed("scales")
        self._only("weight", "scales", "biases")
        quantization = self._mlx_quantization(weight, scales)
        if quantization is None:
            raise damaged(weight, "but config.json does not say how MLX packed it")
        if not weight.shape:
            raise damaged(weight, "which is no matrix")
        shape = (*weight.shape[:-1], weight.shape[-1] * 32 // quantization.bits)
        parts: dict[str, WholeTensor] = {}
        for name, expected in quantization.packed(shape).items():
            tensor = self._needed(name)
            floating = name == "biases" or (name == "scales" and quantization.mode == "affine")
            dtypes = _FLOATS if floating else ("U8", "U32")[name == "weight" :][:1]
            if tensor.shape != expected or tensor.stored_dtype not in dtypes:
                kind = f"{quantization.mode} with {quantization.bits} bits"
                raise damaged(
                    tensor,
                    f"where {kind} in groups of {quantization.group_size} has {list(expected)}",
                )
            parts[name] = WholeTensor(tensor, tensor.shape)
        if "biases" in self.parts and "biases" not in parts:
            raise damaged(self.parts["biases"], f"which {quantization.mode} does not have")
        return PackedMatrix(shape, quantization, parts)

    def _mlx_quantization(self, weight: FileTensor, scales: FileTensor) -> Quantization | None:
        """From the shapes, if the row length is known: config.json may name only the default."""
        stated = self.method.quantization(self.name) if self.method else None
        if self.columns is None or not weight.shape or not scales.shape or not scales.shape[-1]:
            return stated
        bits, group_size = weight.shape[-1] * 32 // self.columns, self.columns // scales.shape[-1]
        mode = "affine"
        if scales.stored_dtype == "U8":
            mode = _FLOAT_BITS.get((bits, group_size), "")
        try:
            return recipes.quantization(mode, bits, group_size)
        except Qwen35Error:
            return stated

    def _one_of(self, *names: str) -> FileTensor | None:
        found = [name for name in names if name in self.parts]
        if len(found) > 1:
            one, other = (self.parts[name] for name in found[:2])
            raise Qwen35Error(
                f"{one.path}: '{one.name}' and '{other.name}' exclude each other: "
                "fetch the checkpoint again"
            )
        return self.parts[found[0]] if found else None

    def _needed(self, *names: str) -> FileTensor:
        tensor = self._one_of(*names)
        if tensor is None:
            raise damaged(self._weight(), f"but '{self.name}' has no {' or '.join(names)}")
        return tensor

    def _only(self, *names: str) -> None:
        """Refuse parts that do not belong to the format."""
        for name, tensor in self.parts.items():
            if name not in names:
                raise damaged(tensor, f"which does not belong to '{self._weight().name}'")


def _check_integers(weight: FileTensor, zeros: FileTensor | None) -> None:
    for tensor in (weight, zeros):
        if tensor is not None and tensor.stored_dtype != "I32":
            raise damaged(tensor, "where packed integers are I32")
