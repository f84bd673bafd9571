"""GPTQ, AWQ, AutoRound, compressed-tensors INT and INT8 keep every weight to the bit."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.formats.method import Method
from tests.checkpoint.cases import Raw
from tests.checkpoint.formats.cases import (
    Array,
    awq_words,
    bit_stream,
    packed_as,
    plain_as,
    raw,
    read,
    read_all,
    refusal,
    widened,
)

ROWS, COLUMNS = 96, 256
GPTQ = Method("gptq", symmetric=True)
ASYMMETRIC = Method("gptq")


def drawn(
    bits: int, groups: int, *, symmetric: bool = False, rows: int = ROWS, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Codes [rows, columns], zero points and float16 scales [rows, groups]."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (rows, COLUMNS))
    zeros = rng.integers(0, 2**bits, (rows, groups))
    zeros[:2, 0] = 0, 2**bits - 1
    if symmetric:
        zeros[:] = 2 ** (bits - 1)
    scales = rng.uniform(0.001, 0.1, (rows, groups)).astype(np.float16)
    scales[0, 0] = 6e-8  # subnormal
    return codes, zeros, scales


def meant(codes: Array, zeros: Array, scales: Array) -> Array:
    """(code - zero point) * scale in float64, where it is exact, as float32, where it is too."""
    exact = (codes - widened(zeros, COLUMNS)) * widened(scales.astype(np.float64), COLUMNS)
    assert (exact.astype(np.float32) == exact).all()
    return exact.astype(np.float32)


def gptq_parts(
    codes: Array, zeros: Array, scales: Array, bits: int, less_one: int = 1, dtype: str = "F16"
) -> dict[str, Raw]:
    stored_zeros = (zeros - less_one) % 2**bits
    return {
        "qweight": raw("I32", bit_stream(codes, bits).T),
        "qzeros": raw("I32", bit_stream(stored_zeros.T, bits)),
        "scales": raw(dtype, scales.T),
        "g_idx": raw("I32", np.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1])),
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("groups", [8, 4, 2, 1])
def test_gptq_is_repacked_without_loss(tmp_path: Path, bits: int, groups: int):
    case = drawn(bits, groups)
    matrix = read(tmp_path, gptq_parts(*case, bits), ASYMMETRIC)
    # With 11 bits of scale and up to 8 of zero point, only float32 holds the product.
    packed_as(matrix, mx.float32, min(128, COLUMNS // groups), bits)
    assert np.array_equal(read_all(matrix), meant(*case))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_symmetric_gptq_keeps_the_dtype_of_its_scales(tmp_path: Path, bits: int, dtype: mx.Dtype):
    codes, zeros, scales = drawn(bits, 2, symmetric=True)
    name = "F16"
    if dtype == mx.bfloat16:
        name, scales = "BF16", (scales.astype(np.float32).view(np.uint32) >> 16 << 16).view("f4")
    matrix = read(tmp_path, gptq_parts(codes, zeros, scales, bits, dtype=name), GPTQ)
    packed_as(matrix, dtype, 128, bits)
    assert np.array_equal(read_all(matrix), meant(codes, zeros, scales))


def test_groups_wider_than_those_of_mlx_repeat_their_scale(tmp_path: Path):
    codes, zeros, scales = (np.concatenate([part, part[::-1]], 1) for part in drawn(4, 1))
    matrix = read(tmp_path, gptq_parts(codes, zeros, scales, 4), ASYMMETRIC)
    packed_as(matrix, mx.float32, 128, 4)
    exact = (codes - widened(zeros, 512)) * widened(scales.astype(np.float64), 512)
    assert np.array_equal(read_all(matrix), exact.astype(np.float32))


@pytest.mark.parametrize("method", [None, Method("compressed-tensors"), Method("awq")])
def test_gptq_needs_a_config_that_says_how_zero_points_are_stored(
    tmp_path: Path, method: Method | None
):
    assert "neither GPTQ nor" in refusal(tmp_path, gptq_parts(*drawn(4, 4), 4), method)


def test_zero_points_of_the_second_gptq_format_are_stored_as_they_are(tmp_path: Path):
    case = drawn(4, 4)
    parts = gptq_parts(*case, 4, less_one=0)
    assert np.array_equal(
        read_all(read(tmp_path, parts, replace(ASYMMETRIC, zeros_less_one=False))), meant(*case)
    )
    assert not np.array_equal(read_all(read(tmp_path, parts, ASYMMETRIC)), meant(*case))


def test_zero_points_that_contradict_symmetric_are_refused(tmp_path: Path):
    message = refusal(tmp_path, gptq_parts(*drawn(4, 4), 4), GPTQ)
    assert "zero points" in message
    assert "symmetric" in message


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_gptq_in_the_order_of_activations_is_plain(tmp_path: Path, dtype: str):
    codes, zeros, scales = drawn(4, 4)
    scales = scales.astype(np.float16 if dtype == "F16" else np.float32)
    order = np.random.default_rng(1).permutation(COLUMNS) // (COLUMNS // 4)
    parts = gptq_parts(codes, zeros, scales, 4, dtype=dtype) | {"g_idx": raw("I32", order)}
    matrix = read(tmp_path, parts, ASYMMETRIC)
    plain_as(matrix, mx.float16 if dtype == "F16" else mx.float32)
    exact = (codes - zeros[:, order]) * scales[:, order].astype(np.float64)
    assert np.array_equal(read_all(matrix), exact.astype(scales.dtype).astype(np.float32))


def test_groups_that_mlx_does_not_have_are_plain(tmp_path: Path):
    codes, zeros, scales = drawn(4, 16)
    matrix = read(tmp_path, gptq_parts(codes, zeros, scales, 4), GPTQ)
    plain_as(matrix, mx.float16)
    assert np.array_equal(
        read_all(matrix), meant(codes, zeros, scales).astype(np.float16).astype(np.float32)
    )


def test_asymmetric_float32_scales_are_plain(tmp_path: Path):
    # 24 bits of scale times a zero point fit into no float32.
    codes, zeros, scales = drawn(4, 4)
    scales = (scales * np.float32(1.1)).astype(np.float32)
    parts = gptq_parts(codes, zeros, scales, 4, dtype="F32")
    matrix = read(tmp_path, parts, ASYMMETRIC)
    plain_as(matrix, mx.float32)
    expected = (codes - widened(zeros, COLUMNS)).astype(np.float32) * widened(scales, COLUMNS)
    assert np.array_equal(read_all(matrix), expected)


@pytest.mark.parametrize("rows", [16, 48])
def test_rows_that_fill_no_32_zero_points(tmp_path: Path, rows: int):
    # in_proj_a and in_proj_b have a row per value head.
    case = drawn(4, 4, rows=rows)
    matrix = read(tmp_path, gptq_parts(*case, 4), ASYMMETRIC)
    assert np.array_equal(read_all(matrix), meant(*case))


@pytest.mark.parametrize("symmetric", [True, False])
def test_awq_is_repacked_without_loss(tmp_path: Path, symmetric: bool):
    codes, zeros, scales = drawn(4, 2, symmetric=symmetric)
    parts = {
        "qweight": raw("I32", awq_words(codes.T)),
        "qzeros": raw("I32", awq_words(zeros.T)),
        "scales": raw("F16", scales.T),
    }
    matrix = read(tmp_path, parts, Method("awq", bits=4, symmetric=symmetric))
    packed_as(matrix, mx.float16 if symmetric else mx.float32, 128, 4)
    assert np.array_equal(read_all(matrix), meant(codes, zeros, scales))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_pack_quantized_keeps_its_words(tmp_path: Path, bits: int, asymmetric: bool):
    codes, zeros, scales = drawn(bits, 4, symmetric=not asymmetric)
    parts = {
        "weight_packed": raw("I32", bit_stream(codes, bits)),
        "weight_scale": raw("F16", scales),
        "weight_shape": raw("I64", np.array([ROWS, COLUMNS])),
    }
    if asymmetric:
        parts["weight_zero_point"] = raw("I32", bit_stream(zeros.T, bits).T)
    for method in (Method("compressed-tensors"), Method("compressed-tensors", bits=bits)):
        matrix = read(tmp_path, parts, method)
        packed_as(matrix, mx.float32 if asymmetric else mx.float16, 64, bits)
        assert np.array_equal(read_all(matrix), meant(codes, zeros, scales))


def test_pack_quantized_of_seven_bits_is_plain(tmp_path: Path):
    codes, zeros, scales = drawn(7, 4, symmetric=True)
    parts = {
        "weight_packed": raw("I32", bit_stream(codes, 7)),
        "weight_scale": raw("F16", scales),
        "weight_shape": raw("I64", np.array([ROWS, COLUMNS])),
    }
    matrix = read(tmp_path, parts, Method("compressed-tensors"))
    plain_as(matrix, mx.float16)
    rounded = meant(codes, zeros, scales).astype(np.float16)
    assert np.array_equal(read_all(matrix), rounded.astype(np.float32))


@pytest.mark.parametrize("order", ["none", "unset", "runs", "permuted"])
def test_pack_quantized_in_the_order_of_activations(tmp_path: Path, order: str):
    codes, zeros, scales = drawn(4, 4, symmetric=True)
    runs = np.arange(COLUMNS) // 64
    permuted = np.random.default_rng(1).permutation(runs)
    parts = {
        "weight_packed": raw("I32", bit_stream(codes, 4)),
        "weight_scale": raw("F16", scales),
        "weight_g_idx": raw(
            "I32", {"unset": np.full(COLUMNS, -1), "runs": runs}.get(order, permuted)
        ),
    }
    if order == "none":
        del parts["weight_g_idx"]
    matrix = read(tmp_path, parts, Method("compressed-tensors", bits=4))
    if order == "permuted":
        plain_as(matrix, mx.float16)
        exact = (codes - 8) * scales[:, permuted].astype(np.float64)
        assert np.array_equal(read_all(matrix), exact.astype(np.float16).astype(np.float32))
    else:
        packed_as(matrix, mx.float16, 64, 4)
        assert np.array_equal(read_all(matrix), meant(codes, zeros, scales))


@pytest.mark.parametrize("scale_shape", [(ROWS, 1), (ROWS,), (1,), (), (ROWS, 8)])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_int8_is_repacked_without_loss(
    tmp_path: Path, scale_shape: tuple[int, ...], asymmetric: bool
):
    rng = np.random.default_rng(2)
    values = rng.integers(-128, 128, (ROWS, COLUMNS))
    scales = rng.uniform(0.001, 0.1, scale_shape).astype(np.float16)
    zeros = rng.integers(-128, 128, scale_shape) * int(asymmetric)
    parts = {"weight": raw("I8", values), "weight_scale": raw("F16", np.array(scales))}
    if asymmetric:
        parts["weight_zero_point"] = raw("I8", np.array(zeros))
    matrix = read(tmp_path, parts, Method("compressed-tensors"))
    groups = scale_shape[1] if len(scale_shape) == 2 else 1
    packed_as(matrix, mx.float32 if asymmetric else mx.float16, min(128, COLUMNS // groups), 8)
    by_row = [np.broadcast_to(a.reshape(-1, groups), (ROWS, groups)) for a in (zeros, scales)]
    assert np.array_equal(read_all(matrix), meant(values, *by_row))


@pytest.mark.parametrize("layout", ["gptq", "awq", "compressed-tensors"])
def test_stacks_of_experts(tmp_path: Path, layout: str):
    cases = [drawn(4, 4, seed=seed) for seed in range(3)]
    names = {"weight_packed", "weight_scale", "weight_zero_point"}
    each: list[dict[str, Raw]] = []
    for codes, zeros, scales in cases:
        if layout == "gptq":
            parts = gptq_parts(codes, zeros, scales, 4)
            names = {"qweight", "qzeros", "scales"}
        elif layout == "awq":
            words = [raw("I32", awq_words(a.T)) for a in (codes, zeros)]
            parts = dict(zip(("qweight", "qzeros"), words, strict=True))
            parts["scales"] = raw("F16", scales.T)
            names = set(parts)
        else:
            parts = {
                "weight_packed": raw("I32", bit_stream(codes, 4)),
                "weight_scale": raw("F16", scales),
                "weight_zero_point": raw("I32", bit_stream(zeros.T, 4).T),
            }
        each.append(parts)
    stack = {
        name: Raw(
            each[0][name].dtype, (3, *each[0][name].shape), b"".join(p[name].data for p in each)
        )
        for name in names
    }
    if layout == "compressed-tensors":
        stack["weight_shape"] = raw("I64", np.array([3, ROWS, COLUMNS]))
    matrix = read(tmp_path, stack, Method(layout))
    packed_as(matrix, mx.float32, 64, 4)
    assert matrix.shape == (3, ROWS, COLUMNS)
    assert np.array_equal(read_all(matrix), np.stack([meant(*case) for case in cases]))


def test_damaged_gptq(tmp_path: Path):
    good = gptq_parts(*drawn(4, 4), 4)
    cut = {name: raw("I32", np.zeros((8, 8))) for name in ("qweight", "qzeros")}
    three = {"scales": raw("F16", np.ones((3, ROWS))), "qzeros": raw("I32", np.zeros((3, 12)))}
    for change, words in [
        ({"qweight": raw("F16", np.zeros((32, ROWS)))}, "packed integers are I32"),
        ({"qweight": cut["qweight"]}, "does not fit its scales"),
        (three | {"g_idx": None}, "do not divide into 3 groups"),
        ({"qzeros": cut["qzeros"]}, "does not fit its scales"),
        ({"qzeros": raw("I32", np.zeros((4, 15)))}, "of 5 bits, which are not supported"),
        ({"qzeros": raw("I32", np.zeros((3, ROWS // 8)))}, "does not fit its scales"),
        ({"qzeros": None}, "qzeros are missing"),
        ({"scales": None}, "has no scales"),
        ({"scales": raw("I32", np.zeros((4, ROWS)))}, "no scales of GPTQ"),
        ({"g_idx": raw("I32", np.full(COLUMNS, 4))}, "beyond the 4"),
        ({"g_idx": raw("I32", np.full(COLUMNS, -2))}, "beyond the 4"),
        ({"g_idx": raw("I32", np.zeros(8))}, "have a group each"),
        ({"weight_scale": raw("F16", np.zeros(8))}, "does not belong to"),
    ]:
        parts = {n: p for n, p in (good | change).items() if p is not None}
        if "g_idx" not in change and "qweight" in change:
            del parts["g_idx"]
        assert words in refusal(tmp_path, parts, ASYMMETRIC), change
    assert "config.json says 8" in refusal(tmp_path, good, Method("gptq", bits=8))


def test_damaged_pack_quantized(tmp_path: Path):
    codes, _, scales = drawn(4, 4, symmetric=True)
    good = {
        "weight_packed": raw("I32", bit_stream(codes, 4)),
        "weight_scale": raw("F16", scales),
        "weight_shape": raw("I64", np.array([ROWS, COLUMNS])),
    }
    for change, words in [
        ({"weight_shape": raw("I64", np.array([ROWS, 0]))}, "rows of 0 columns"),
        ({"weight_shape": raw("I64", np.array([ROWS, 250]))}, "does not hold 250 columns"),
        ({"weight_shape": None}, "has no weight_shape"),
        ({"weight_scale": raw("F16", np.zeros((ROWS, 3)))}, "do not divide into 3 groups"),
        ({"weight_scale": raw("F16", np.zeros((8, 4)))}, "a matrix of 96 rows"),
        ({"weight_scale": raw("U8", np.zeros((ROWS, 4)))}, "no scales of integers"),
        ({"weight_zero_point": raw("I32", np.zeros((ROWS, 4)))}, "does not fit the scales"),
        ({"weight_zero_point": raw("I8", np.zeros((ROWS, 4)))}, "packed integers are I32"),
        ({"weight_packed": raw("I32", np.zeros((2, 2, 2, 2)))}, "no matrix"),
        ({"weight_packed": raw("I64", np.zeros((ROWS, 8)))}, "no supported quantisation"),
    ]:
        parts = {n: p for n, p in (good | change).items() if p is not None}
        assert words in refusal(tmp_path, parts, Method("compressed-tensors")), change


def test_damaged_int8(tmp_path: Path):
    good = {
        "weight": raw("I8", np.zeros((ROWS, COLUMNS))),
        "weight_scale": raw("F16", np.ones((ROWS, 1))),
    }
    for change, words in [
        ({"weight": raw("I8", np.zeros((ROWS, 255)))}, "no multiple of 4"),
        ({"weight_scale": None}, "has no weight_scale_inv or weight_scale"),
        ({"weight_scale": raw("F16", np.ones((ROWS, 1, 1)))}, "a matrix of 96 rows"),
        ({"weight_zero_point": raw("I8", np.zeros(ROWS))}, "does not fit the scales"),
        ({"scale": raw("F16", np.ones((ROWS, 1)))}, "exclude each other"),
    ]:
        parts = {n: p for n, p in (good | change).items() if p is not None}
        assert words in refusal(tmp_path, parts, Method("compressed-tensors")), change
