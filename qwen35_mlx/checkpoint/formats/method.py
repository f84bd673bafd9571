"""How a checkpoint is quantised, as its config files say.

The tensors of a module mostly give away their own format: `matrices.read_matrix`. Here is what they
cannot say, and what is refused before a tensor is looked at. No pattern of module names, such as
GPTQ's `dynamic` or AutoRound's `extra_config`, is needed to read a matrix, so none is evaluated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.untrusted_json import Fields

CONFIG = "config.json"
MODELOPT_CONFIG = "hf_quant_config.json"

# Rows and columns of a block of a float-8 matrix are widened to this many values at most;
# published checkpoints have 128.
_MAX_BLOCK = 1024
_DEFAULT_BLOCK = (128, 128)

_ADVICE = "use the BF16, FP8, GPTQ, AWQ, compressed-tensors or MLX checkpoint of this model"

_COMPRESSED_FORMATS = {
    *("dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision"),
}
_MODELOPT_ALGORITHMS = {
    *("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "MXFP8", "NVFP4", "NVFP4_AWQ"),
    *("W4A16_NVFP4", "W4A8_NVFP4_FP8", "W8A16", "MIXED_PRECISION"),
}


@dataclass(frozen=True, slots=True)
class Method:
    """What config files say about the quantised tensors of a checkpoint.

    Attributes:
        name: of the method, as in config.json; "mlx" for mlx-lm's own.
        bits: of every integer matrix, where the config has one value for all.
        symmetric: whether all integers have the zero point 2 ** (bits - 1).
        zeros_less_one: whether GPTQ's zero points are stored less one.
        block_shapes: rows and columns that may share a scale in a float-8 matrix.
        default: how MLX packs the modules that are not in `overrides`.
        overrides: by the module's name without `language_model.`; None for a plain module.
    """

    name: str
    bits: int | None = None
    symmetric: bool = False
    zeros_less_one: bool = True
    block_shapes: tuple[tuple[int, int], ...] = ()
    default: Quantization | None = None
    overrides: Mapping[str, Quantization | None] = field(default_factory=dict)

    def quantization(self, module: str) -> Quantization | None:
        """How config.json says that MLX packs a module of this stored or canonical name."""
        return self.overrides.get(bare_module(module), self.default)


def bare_module(module: str) -> str:
    """A module's name without the prefix of the language model in a multimodal checkpoint."""
    return module.replace("language_model.", "", 1)


def read_method(config: Mapping[str, Any], quant_file: Mapping[str, Any] | None) -> Method | None:
    """How a checkpoint is quantised; None if its config files say that it is not.

    Args:
        config: config.json.
        quant_file: hf_quant_config.json, which ModelOpt writes, if there is one.

    Raises:
        Qwen35Error: the method, or a variant of it, is not supported, or the entry is damaged.
    """
    top = Fields(config, CONFIG)
    entry = top.section("quantization").values
    if entry:
        return _mlx(entry)
    entry = top.section("quantization_config").values
    inner = top.section("text_config").section("quantization_config").values
    if entry and inner and entry != inner:
        raise Qwen35Error(
            "config.json: 'quantization_config' and the one in 'text_config' differ: "
            "fetch the file again"
        )
    entry = entry or inner
    if not entry:
        if not quant_file:
            return None
        return _modelopt(Fields(quant_file, MODELOPT_CONFIG).section("quantization"))
    method = entry.get("quant_method", entry.get("quant_type"))
    if method is None and "quant_algo" in entry:
        method = "modelopt"
    if method is None and "group_size" in entry:
        return _mlx(entry)  # mlx-lm's; other methods give their name
    fields = Fields(entry, f"{CONFIG}: quantization_config")
    _refuse_rotations(entry)
    match str(method).lower():
        case "fp8" | "fbgemm_fp8":
            return _fp8(fields, str(method))
        case "gptq" | "gptqmodel":
            return _gptq(fields)
        case "awq":
            return _awq(fields)
        case "auto-round" | "auto_round" | "autoround" | "intel/auto-round":
            return _auto_round(fields)
        case "compressed-tensors" | "compressed_tensors":
            return _compressed_tensors(fields)
        case "modelopt" | "modelopt_fp4" | "modelopt_mixed":
            return _modelopt(fields)
    raise _refused(f"quantisation by {shown(method)}")


def _refused(what: str, advice: str = _ADVICE) -> Qwen35Error:
    return Qwen35Error(f"config.json: {what} is not supported: {advice}")


def _refuse_rotations(entry: Mapping[str, Any]) -> None:
    """Refuse matrices that multiply rotated inputs."""
    for key in ("transform_config", "rotation_config"):
        if entry.get(key):
            raise _refused(f"a quantisation with {key}")


def _fp8(fields: Fields, name: str) -> Method:
    # transformers' default where the key is missing; null stands for one scale per matrix.
    block = fields.values.get("weight_block_size", list(_DEFAULT_BLOCK))
    if name == "fbgemm_fp8" or block is None:
        return Method(name)
    return Method(name, block_shapes=(_block_shape(block, "weight_block_size"),))


def _block_shape(block: Any, key: str) -> tuple[int, int]:
    if not (
        isinstance(block, list)
        and len(block) == 2
        and all(type(b) is int and 1 <= b <= _MAX_BLOCK for b in block)
    ):
        raise _refused(
            f"FP8 with {key} {shown(block)}", "use a checkpoint with blocks of 128x128, or BF16"
        )
    return block[0], block[1]


def _gptq(fields: Fields) -> Method:
    stated = {
        key: fields.text(key, "").lower()
        for key in ("checkpoint_format", "format")
        if fields.text(key, "")
    }
    if len(set(stated.values())) > 1:
        both = " and ".join(f"{key} {value!r}" for key, value in stated.items())
        raise _refused(f"GPTQ with {both}", "fetch the file again")
    kind = next(iter(stated.values()), "gptq")
    if kind not in ("gptq", "gptq_v2") or fields.flag("is_marlin_format"):
        kind = "marlin" if fields.flag("is_marlin_format") else kind
        raise _refused(f"GPTQ in the format {shown(kind)}")
    overrides = fields.section("dynamic").values
    return Method(
        "gptq",
        bits=_bits(fields, overrides),
        symmetric=_symmetric(fields, overrides),
        zeros_less_one=kind == "gptq",
    )


def _awq(fields: Fields) -> Method:
    version = fields.text("version", "gemm").lower()
    if version != "gemm":
        raise _refused(f"AWQ of the version {shown(version)}")
    if _bits(fields, {}) not in (None, 4):
        raise _refused(f"AWQ with {_bits(fields, {})} bits")
    return Method("awq", bits=4, symmetric=not fields.flag("zero_point", True))


def _auto_round(fields: Fields) -> Method:
    packing = fields.text("packing_format", "auto_round:auto_gptq").lower()
    if "mlx" in packing or "gguf" in packing:
        raise _refused(f"AutoRound with the packing_format {shown(packing)}")
    overrides = fields.section("extra_config").values
    block = fields.values.get("weight_block_size")
    return Method(
        "auto-round",
        bits=_bits(fields, overrides) if "awq" not in packing else 4,
        symmetric=_symmetric(fields, overrides),
        zeros_less_one="gptq" in packing and "gptqmodel" not in packing,
        block_shapes=(_block_shape(block, "weight_block_size"),) if block else (),
    )


def _compressed_tensors(fields: Fields) -> Method:
    sparsity = fields.section("sparsity_config").text("format", "dense")
    if sparsity != "dense":
        raise _refused(f"compressed-tensors with the sparsity format {shown(sparsity)}")
    groups = fields.section("config_groups")
    formats = [fields.text("format", "mixed-precision")]
    bits: set[int] = set()
    blocks: list[tuple[int, int]] = []
    for name in groups.values:
        group = groups.section(name)
        formats.append(group.text("format", "dense"))
        weights = group.section("weights")
        if not weights.values:
            continue
        bits.add(weights.whole("num_bits", 8, high=32))
        block = weights.values.get("block_structure")
        if isinstance(block, str) and all(part.isdecimal() for part in block.split("x")):
            block = [int(part[:9]) for part in block.split("x")]
        if weights.text("strategy", "") == "block":
            blocks.append(_block_shape(block, "block_structure"))
    for kind in formats:
        if kind not in _COMPRESSED_FORMATS:
            raise _refused(f"compressed-tensors in the format {shown(kind)}")
    return Method(
        "compressed-tensors",
        bits=bits.pop() if len(bits) == 1 else None,
        block_shapes=tuple(dict.fromkeys(blocks)),
    )


def _modelopt(fields: Fields) -> Method:
    layers = fields.section("quantized_layers")
    for section in (fields, *(layers.section(name) for name in layers.values)):
        algorithm = section.text("quant_algo", "MIXED_PRECISION").upper()
        if algorithm not in _MODELOPT_ALGORITHMS:
            raise _refused(f"ModelOpt's {shown(algorithm)}")
    return Method("modelopt", block_shapes=(_DEFAULT_BLOCK,))


def _bits(fields: Fields, overrides: Mapping[str, Any]) -> int | None:
    """The bits of every matrix; None if they are not given or differ."""
    bits = None if fields.values.get("bits") is None else fields.whole("bits", high=32)
    return None if any("bits" in override for override in _objects(overrides)) else bits


def _symmetric(fields: Fields, overrides: Mapping[str, Any]) -> bool:
    """Whether every matrix is symmetric; False is safe for one that is."""
    differs = any(not override.get("sym", True) for override in _objects(overrides))
    return fields.flag("sym") and not differs


def _objects(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (value for value in values.values() if isinstance(value, Mapping))


def _mlx(entry: Mapping[str, Any]) -> Method:
    for key in ("group_size", "bits"):
        if key not in entry:
            raise _incomplete("quantization")
    default = _quantization(entry, "quantization")
    overrides: dict[str, Quantization | None] = {}
    for key, value in entry.items():
        if value is True or value is False:
            overrides[bare_module(key)] = default if value else None
        elif isinstance(value, Mapping):
            overrides[bare_module(key)] = _quantization(value, key)
    return Method("mlx", default=default, overrides=overrides)


def _quantization(entry: Mapping[str, Any], key: str) -> Quantization:
    """One quantisation; what a module's own entry leaves out is MLX's default for the mode."""
    if "group_size" not in entry and "bits" not in entry:
        raise _incomplete(key)
    fields = Fields(entry, f"{CONFIG}: {shown(key)}")
    bits, group_size = (
        fields.whole(name) if name in entry else None for name in ("bits", "group_size")
    )
    mode = fields.text("mode", "affine")
    try:
        return recipes.quantization(mode, bits, group_size)
    except Qwen35Error:
        raise Qwen35Error(
            f"config.json: {shown(key)} asks for {bits} bits in groups of {group_size}, mode "
            f"{shown(mode)}, which MLX does not have: fetch it again or choose another checkpoint"
        ) from None


def _incomplete(key: str) -> Qwen35Error:
    return Qwen35Error(
        f"config.json: {shown(key)} does not give the group_size and bits of an MLX "
        "quantisation: fetch it again"
    )
