"""Names of parts, plain matrices, MLX's packings, and parts that do not belong together."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.formats.matrices import read_matrix, split_name
from qwen35_mlx.checkpoint.formats.method import Method, read_method
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from tests.checkpoint.cases import Raw
from tests.checkpoint.formats.cases import (
    MODULE,
    bit_stream,
    plain_as,
    raw,
    read,
    read_all,
    refusal,
    stored,
    widened,
)

BASE = "model.language_model.layers.3.mlp.experts"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{BASE}.7.up_proj.weight", (f"{BASE}.7.up_proj", "weight")),
        (f"{BASE}.7.up_proj.qweight", (f"{BASE}.7.up_proj", "qweight")),
        (f"{BASE}.gate_up_proj", (f"{BASE}.gate_up_proj", "weight")),
        (f"{BASE}.gate_up_proj.weight", (f"{BASE}.gate_up_proj", "weight")),
        (f"{BASE}.down_proj_scale_inv", (f"{BASE}.down_proj", "weight_scale_inv")),
        (f"{BASE}.down_proj_weight_scale", (f"{BASE}.down_proj", "weight_scale")),
        (f"{BASE}.down_proj_weight_scale_2", (f"{BASE}.down_proj", "weight_scale_2")),
        (f"{BASE}.down_proj_input_scale", (f"{BASE}.down_proj", "input_scale")),
        (f"{BASE}.down_proj_blocks", None),
        ("lm_head.weight", ("lm_head", "weight")),
        ("model.layers.0.linear_attn.A_log", None),
        ("model.layers.0.linear_attn.dt_bias", None),
        ("weight", None),
        ("model.layers.0.self_attn.k_proj.k_scale", ("model.layers.0.self_attn.k_proj", "k_scale")),
    ],
)
def test_names(name: str, expected: tuple[str, str] | None):
    assert split_name(name) == expected


@pytest.mark.parametrize("shape", [(), (5,), (6, 8), (6, 1, 4), (3, 6, 8)])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_plain_weight_of_any_shape(tmp_path: Path, dtype: str, shape: tuple[int, ...]):
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    parts = {"weight": raw(dtype, values)}
    matrix = read(tmp_path, parts, Method("gptq"))
    assert not isinstance(matrix, PackedMatrix)
    assert matrix.shape == shape
    assert np.array_equal(np.array(matrix.read(0, (*shape, 1)[0]).astype(mx.float32)), values)


def test_scales_of_activations_and_left_over_scales_are_named(tmp_path: Path):
    one = raw("F32", np.ones(1))
    names = ["input_scale", "activation_scale", "k_scale", "weight_scale"]
    parts = {"weight": raw("BF16", np.ones((4, 4)))} | dict.fromkeys(names, one)
    matrix, unused = read_matrix(MODULE, stored(tmp_path, parts), None)
    assert sorted(unused) == sorted(names)
    plain_as(matrix, mx.bfloat16)
    parts["weight"] = raw("F8_E4M3", np.ones((4, 4)))
    _, unused = read_matrix(MODULE, stored(tmp_path, parts), None)
    assert sorted(unused) == sorted(names[:-1])


def test_only_a_bias_of_zeros_is_passed_over(tmp_path: Path):
    parts = {"weight": raw("BF16", np.ones((4, 4))), "bias": raw("F16", np.zeros(4))}
    assert read_matrix(MODULE, stored(tmp_path, parts), None)[1] == []
    parts["bias"] = raw("F16", np.array([0, 0, 0, 6e-8]))
    assert "a bias that is not zero" in refusal(tmp_path, parts, None)
    parts["bias"] = raw("I32", np.zeros(4))
    assert "no bias" in refusal(tmp_path, parts, None)


def test_a_module_without_a_weight(tmp_path: Path):
    assert f"'{MODULE}' has no weight" in refusal(
        tmp_path, {"scales": raw("F16", np.ones(4))}, None
    )
    with pytest.raises(Qwen35Error, match="has no weight"):
        read_matrix(MODULE, stored(tmp_path, {"k_scale": raw("F16", np.ones(4))}), None)


def test_parts_that_exclude_each_other(tmp_path: Path):
    good = {"weight": raw("BF16", np.ones((4, 4)))}
    for other, words in [
        ("qweight", "exclude each other"),
        ("weight_packed", "exclude each other"),
        ("pre_quant_scale", "a scale of inputs"),
        ("qzeros", "does not belong to"),
        ("biases", "does not belong to"),
    ]:
        assert words in refusal(tmp_path, good | {other: raw("F32", np.ones(4))}, None)


def affine(bits: int, group_size: int, shape: tuple[int, ...]) -> tuple[dict[str, Raw], object]:
    """The parts of a matrix in MLX's affine packing, and its values."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**bits, shape)
    scales, biases = (
        rng.uniform(-1, 1, (*shape[:-1], shape[-1] // group_size)).astype(np.float16)
        for _ in range(2)
    )
    parts = {
        "weight": raw("U32", bit_stream(codes, bits).view(np.uint32)),
        "scales": raw("F16", scales),
        "biases": raw("F16", biases),
    }
    wide = [widened(part.astype(np.float32), shape[-1]) for part in (scales, biases)]
    return parts, (codes * wide[0] + wide[1]).astype(np.float32)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (8, 32), (3, 128), (5, 32), (6, 64)])
@pytest.mark.parametrize("shape", [(8, 128), (3, 8, 128)])
def test_mlx_packings_are_told_apart_by_the_row_length(
    tmp_path: Path, bits: int, group_size: int, shape: tuple[int, ...]
):
    parts, expected = affine(bits, group_size, shape)
    only_default = read_method({"quantization": {"group_size": 64, "bits": 2}}, None)
    matrix = read(tmp_path, parts, only_default, columns=128)
    assert isinstance(matrix, PackedMatrix)
    assert matrix.quantization == Quantization(group_size, bits)
    assert matrix.shape == shape
    assert np.allclose(read_all(matrix), expected, rtol=1e-6, atol=1e-6)
    stated = read_method(
        {
            "quantization": {
                "group_size": 64,
                "bits": 2,
                MODULE: {"group_size": group_size, "bits": bits},
            }
        },
        None,
    )
    again = read(tmp_path, parts, stated)
    assert isinstance(again, PackedMatrix)
    assert again.quantization == matrix.quantization


@pytest.mark.parametrize(
    ("mode", "bits", "group_size"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
)
def test_mlx_float_packings(tmp_path: Path, mode: str, bits: int, group_size: int):
    parts = {
        "weight": raw("U32", np.zeros((8, 128 * bits // 32))),
        "scales": raw("U8", np.zeros((8, 128 // group_size))),
    }
    method = read_method({"quantization": {"group_size": 64, "bits": 4}}, None)
    matrix = read(tmp_path, parts, method, columns=128)
    assert isinstance(matrix, PackedMatrix)
    assert matrix.quantization == Quantization(group_size, bits, mode)
    parts["biases"] = raw("F16", np.zeros((8, 128 // group_size)))
    assert f"which {mode} does not have" in refusal(tmp_path, parts, method, columns=128)


def test_damaged_mlx_packings(tmp_path: Path):
    good, _ = affine(4, 64, (8, 128))
    method = read_method({"quantization": {"group_size": 64, "bits": 4}}, None)
    for change, words in [
        ({"scales": None}, "has no scales"),
        ({"biases": None}, "has no biases"),
        ({"biases": raw("F16", np.zeros((8, 4)))}, "in groups of 64 has [8, 2]"),
        ({"scales": raw("I32", np.zeros((8, 2)))}, "in groups of 64 has [8, 2]"),
        ({"weight": raw("U32", np.zeros(()))}, "no matrix"),
        ({"qzeros": raw("I32", np.zeros(4))}, "does not belong to"),
    ]:
        parts = {n: p for n, p in (good | change).items() if p is not None}
        assert words in refusal(tmp_path, parts, method), change
    assert "how MLX packed it" in refusal(tmp_path, good, None)
    assert "how MLX packed it" in refusal(tmp_path, good, Method("gptq"))


def test_a_file_that_became_shorter_is_one_line(tmp_path: Path):
    parts = {
        "qweight": raw("I32", np.zeros((16, 32))),
        "qzeros": raw("I32", np.zeros((1, 4))),
        "scales": raw("F16", np.zeros((1, 32))),
    }
    matrix = read(tmp_path, parts, Method("gptq"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1200])
    assert isinstance(matrix, PackedMatrix)
    with pytest.raises(Qwen35Error, match="ends inside tensor"):
        matrix.parts["weight"].read(3, 5)
