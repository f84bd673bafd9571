"""Whole checkpoints quantised as published ones are, in plain numpy, and what they mean.

A packer makes the stored tensors of one matrix, and the float32 values that the definition of its
format gives them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels.quantized import Quantization
from tests.checkpoint.cases import Raw, Tensors, canonical, e4m3, fused, golden, one_by_one, write
from tests.checkpoint.formats.cases import (
    E2M1,
    Array,
    awq_words,
    bfloat16,
    bit_stream,
    e2m1,
    nibbles,
    raw,
    widened,
)

# The parts of a matrix [rows, columns] by the ends of their names, and its values.
Packed = tuple[dict[str, Raw], Array]
Packer = Callable[[Array], Packed]
Stored = dict[str, mx.array | Raw]

GROUP = 32
# As published: what is sensitive or small stays plain, and so does the MTP head.
MODULES = re.compile(
    r"^(?!mtp).*(linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|self_attn\.[qkvo]_proj"
    r"|mlp\.(experts\.(\d+\.)?)?(gate|up|gate_up|down)_proj)$"
)
_E4M3 = e4m3(np.arange(127, dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of quantised checkpoint.

    Attributes:
        config: its `quantization_config`.
        packers: of the modules that the patterns match, the first one counts.
        packed: how most matrices are packed once they are read; None for plain.
        scales: the dtype of their scales and biases, if affine.
        model: the golden that is quantised.
        experts: "fused" or "one by one".
        files: further JSON files of the folder.
        mlx: whether names, norms and convolutions are mlx-lm's.
    """

    config: Mapping[str, Any]
    packers: Mapping[re.Pattern[str], Packer]
    packed: Quantization | None
    scales: mx.Dtype | None = None
    model: str = "dense"
    experts: str = "fused"
    files: Mapping[str, Any] = field(default_factory=dict)
    mlx: bool = False


@dataclass(frozen=True, slots=True)
class Folders:
    """A quantised checkpoint, and a plain float32 one of the values that it means."""

    quantized: Path
    plain: Path


def write_source(path: Path, source: Source) -> Folders:
    values = write_quantized(path / "quantized", source)
    config, _ = golden(source.model)
    return Folders(path / "quantized", write(path / "plain", config, values))


def write_quantized(path: Path, source: Source) -> Tensors:
    """Write a quantised checkpoint; returns all tensors with the values that it means."""
    config, tensors = golden(source.model)
    if source.mlx:
        tensors = canonical(tensors)
    else:
        tensors = (fused if source.experts == "fused" else one_by_one)(tensors)
    stored: Stored = {}
    meant: Tensors = {}
    for name, value in tensors.items():
        module = name.removesuffix(".weight")
        packer = next((p for pattern, p in source.packers.items() if pattern.match(module)), None)
        if packer is None or value.ndim < 2 or value.shape[-1] % GROUP:
            # The goldens are bfloat16 but for a few tensors; 1 + w of a norm needs more.
            stored[name] = value if value.ndim < 2 else value.astype(mx.bfloat16)
            continue
        parts, values = _packed(np.array(value), packer)
        meant[name] = mx.array(values)
        # A stack of experts has no ".weight" in its name.
        bare = not name.endswith(".weight") and "weight" in parts
        stored |= {_part_name(module, part, bare): tensor for part, tensor in parts.items()}
    if source.config.get("kv_cache_scheme"):
        layer = "model.language_model.layers.3.self_attn"
        stored |= {f"{layer}.{n}_proj.{n}_scale": raw("F32", np.ones(())) for n in "kv"}
    prefix = "language_model." if source.mlx else ""
    key = "quantization" if source.mlx else "quantization_config"
    entry = {key: source.config} if source.config else {}
    write(path, config | entry, {prefix + n: v for n, v in stored.items()}, files=2)
    for name, content in source.files.items():
        (path / name).write_text(content)
    return {prefix + name: value for name, value in (tensors | meant).items()}


def _part_name(module: str, part: str, bare: bool) -> str:
    if not bare:
        return f"{module}.{part}"
    return module if part == "weight" else f"{module}_{part.removeprefix('weight_')}"


def _packed(value: Array, packer: Packer) -> Packed:
    """A matrix, or a stack of them part by part."""
    if value.ndim == 2:
        return packer(value)
    each = [packer(matrix) for matrix in value]
    parts = {
        name: Raw(first.dtype, (len(each), *first.shape), b"".join(p[name].data for p, _ in each))
        for name, first in each[0][0].items()
    }
    return parts, np.stack([values for _, values in each])


def _codes(
    value: Array, bits: int, groups: Array, symmetric: bool, scales: str
) -> tuple[Array, Array, Array]:
    """Codes [rows, columns], zero points and scales [rows, groups] of the nearest integers.

    Args:
        groups: of each column.
    """
    count = groups.max() + 1
    members = [value[:, groups == group] for group in range(count)]
    low = np.minimum(np.stack([part.min(1) for part in members], 1), 0)
    high = np.maximum(np.stack([part.max(1) for part in members], 1), 0)
    top = 2**bits - 1
    if symmetric:
        step = np.maximum(-low, high) / max(1, 2 ** (bits - 1) - 1)
        zeros = np.full(step.shape, 2 ** (bits - 1))
    else:
        step = (high - low) / top
        zeros = np.rint(-low / step).astype(int)
    step = bfloat16(step) if scales == "BF16" else step.astype(np.float16)
    wide = step.astype(np.float32)[:, groups]
    return np.clip(np.rint(value / wide) + zeros[:, groups], 0, top).astype(int), zeros, step


def _integers(codes: Array, zeros: Array, scales: Array, groups: Array) -> Array:
    """(code - zero point) * scale, which float32 holds exactly for 16-bit scales."""
    return ((codes - zeros[:, groups]) * scales[:, groups].astype(np.float64)).astype(np.float32)


def _runs(value: Array, group: int = GROUP) -> Array:
    return np.arange(value.shape[1]) // group


def gptq(
    bits: int = 4,
    *,
    symmetric: bool = True,
    less_one: bool = True,
    permuted: bool = False,
    g_idx: bool = True,
    scales: str = "F16",
) -> Packer:
    """Words along the input axis; zero points may be less one, and groups in any order."""

    def pack(value: Array) -> Packed:
        groups = _runs(value)
        if permuted:
            groups = np.random.default_rng(len(value)).permutation(groups)
        codes, zeros, steps = _codes(value, bits, groups, symmetric, scales)
        parts = {
            "qweight": raw("I32", bit_stream(codes, bits).T),
            "qzeros": raw("I32", bit_stream((zeros.T - less_one) % 2**bits, bits)),
            "scales": raw(scales, steps.T),
        }
        if g_idx:
            parts["g_idx"] = raw("I32", groups)
        values = _integers(codes, zeros, steps, groups)
        # Permuted groups have no place in MLX: read as values in the dtype of the scales.
        return parts, values.astype(np.float16).astype(np.float32) if permuted else values

    return pack


def awq(value: Array) -> Packed:
    """Words along the output axis, neighbours interleaved."""
    codes, zeros, scales = _codes(value, 4, _runs(value), False, "F16")
    parts = {
        "qweight": raw("I32", awq_words(codes.T)),
        "qzeros": raw("I32", awq_words(zeros.T)),
        "scales": raw("F16", scales.T),
    }
    return parts, _integers(codes, zeros, scales, _runs(value))


def pack_quantized(
    bits: int = 4, *, symmetric: bool = True, permuted: bool = False, scales: str = "BF16"
) -> Packer:
    """compressed-tensors' integers: words along the row, zero points along the rows."""

    def pack(value: Array) -> Packed:
        groups = _runs(value)
        if permuted:
            groups = np.random.default_rng(len(value)).permutation(groups)
        codes, zeros, steps = _codes(value, bits, groups, symmetric, scales)
        parts = {
            "weight_packed": raw("I32", bit_stream(codes, bits)),
            "weight_scale": raw(scales, steps),
            "weight_shape": raw("I64", np.array(value.shape)),
        }
        if not symmetric:
            parts["weight_zero_point"] = raw("I32", bit_stream(zeros.T, bits).T)
        values = _integers(codes, zeros, steps, groups)
        if permuted:
            parts["weight_g_idx"] = raw("I32", groups)
            values = bfloat16(values)
        return parts, values

    return pack


def int8(value: Array) -> Packed:
    """compressed-tensors' int-quantized: signed bytes, a scale per row."""
    one = np.zeros(value.shape[1], int)
    codes, zeros, scales = _codes(value, 8, one, True, "BF16")
    parts = {"weight": raw("I8", codes - 128), "weight_scale": raw("BF16", scales)}
    return parts, _integers(codes, zeros, scales, one)


def _nearest(values: Array, table: Array) -> Array:
    """The index of the nearest value in a rising table."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values)


def _float8_codes(values: Array) -> Array:
    return _nearest(np.abs(values), _E4M3) | (values < 0) * 128


def float8(
    per: str, name: str = "weight_scale", dtype: str = "F32", block: tuple[int, int] = (128, 128)
) -> Packer:
    """E4M3 values and a multiplier per "tensor", "channel" or "block"."""

    def pack(value: Array) -> Packed:
        rows, columns = value.shape
        high, wide = {"tensor": (rows, columns), "channel": (1, columns), "block": block}[per]
        grid = -(-rows // high), -(-columns // wide)
        padded = np.zeros((grid[0] * high, grid[1] * wide), np.float32)
        padded[:rows, :columns] = np.abs(value)
        scales = padded.reshape(grid[0], high, grid[1], wide).max((1, 3)) / 448
        scales = bfloat16(scales) if dtype == "BF16" else scales
        by_value = np.repeat(np.repeat(scales, high, 0), wide, 1)[:rows, :columns]
        codes = _float8_codes(value / by_value)
        parts = {
            "weight": raw("F8_E4M3", codes),
            name: raw(dtype, scales.reshape(()) if per == "tensor" else scales),
            "input_scale": raw("F32", np.ones(())),
        }
        return parts, bfloat16(e4m3(codes.astype(np.uint8)) * by_value)

    return pack


def _float4_codes(values: Array) -> Array:
    return _nearest(np.abs(values), E2M1) | (values < 0) * 8


def mxfp4(name: str = "weight_packed") -> Packer:
    def pack(value: Array) -> Packed:
        largest = np.abs(value.reshape(len(value), -1, 32)).max(-1)
        exponents = np.ceil(np.log2(largest / 6)).astype(int) + 127
        wide = widened(np.exp2(exponents - 127.0), value.shape[1])
        codes = _float4_codes(value / wide)
        return _mx_parts(name, nibbles(codes), exponents), (e2m1(codes) * wide).astype(np.float32)

    return pack


def _mx_parts(name: str, codes: Array, exponents: Array) -> dict[str, Raw]:
    if name == "scales":  # MLX's
        words = np.ascontiguousarray(codes.astype(np.uint8)).view(np.uint32)
        return {"weight": raw("U32", words), "scales": raw("U8", exponents)}
    return {name: raw("U8", codes), "weight_scale": raw("U8", exponents)}


def mlx_mxfp8(value: Array) -> Packed:
    largest = np.abs(value.reshape(len(value), -1, 32)).max(-1)
    exponents = np.ceil(np.log2(largest / 448)).astype(int) + 127
    wide = widened(np.exp2(exponents - 127.0), value.shape[1])
    codes = _float8_codes(value / wide)
    values = e4m3(codes.astype(np.uint8)) * wide
    return _mx_parts("scales", codes, exponents), values.astype(np.float32)


def nvfp4(style: str, whole: float | None = None) -> Packer:
    """E2M1 values, E4M3 scales of 16 neighbours, and a scale of the whole matrix.

    Args:
        style: "modelopt" (a multiplier), "compressed-tensors" (a divisor) or "mlx" (none).
        whole: the multiplier; None for the one that the tools take, from the largest value.
    """

    def pack(value: Array) -> Packed:
        largest = np.abs(value.reshape(len(value), -1, 16)).max(-1)
        factor = np.float32(largest.max() / (6 * 448) if whole is None else whole)
        stored = np.float32(1) / factor if style == "compressed-tensors" else factor
        factor = np.float32(1) / stored if style == "compressed-tensors" else factor
        scales = np.maximum(_nearest(largest / 6 / factor, _E4M3), 1)
        joined = e4m3(scales.astype(np.uint8))
        joined = joined / stored if style == "compressed-tensors" else joined * factor
        wide = widened(joined, value.shape[1])
        codes = _float4_codes(value / wide)
        values = (e2m1(codes) * wide).astype(np.float32)
        if style == "mlx":
            return _mx_parts("scales", nibbles(codes), scales), values
        names = ("weight", "weight_scale_2")
        if style == "compressed-tensors":
            names = ("weight_packed", "weight_global_scale")
        parts = {
            names[0]: raw("U8", nibbles(codes)),
            "weight_scale": raw("F8_E4M3", scales),
            names[1]: raw("F32", np.full((1,) if style != "modelopt" else (), stored)),
            "input_scale": raw("F32", np.ones(())),
        }
        return parts, bfloat16(values)

    return pack


def mlx_affine(bits: int, group: int = GROUP) -> Packer:
    def pack(value: Array) -> Packed:
        groups = _runs(value, group)
        low = value.reshape(len(value), -1, group).min(-1)
        high = value.reshape(len(value), -1, group).max(-1)
        scales, biases = bfloat16((high - low) / (2**bits - 1)), bfloat16(low)
        codes = np.rint((value - biases[:, groups]) / scales[:, groups]).clip(0, 2**bits - 1)
        codes = codes.astype(int)
        parts = {
            "weight": raw("U32", bit_stream(codes, bits).view(np.uint32)),
            "scales": raw("BF16", scales),
            "biases": raw("BF16", biases),
        }
        exact = codes * scales[:, groups].astype(np.float64) + biases[:, groups]
        return parts, exact.astype(np.float32)

    return pack
