"""FP8, MXFP8, MXFP4 and NVFP4 mean what their definitions say, and keep their bits if MLX can."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.formats.method import Method
from tests.checkpoint.cases import Raw, e4m3
from tests.checkpoint.formats.cases import (
    Array,
    bfloat16,
    e2m1,
    float_codes,
    nibbles,
    packed_as,
    plain_as,
    raw,
    read,
    read_all,
    refusal,
    widened,
)

ROWS, COLUMNS = 48, 96
FP8 = Method("fp8", block_shapes=((16, 24),))


def scales_of(shape: tuple[int, ...], seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32) / 64


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((), (ROWS, COLUMNS)),
        ((1,), (ROWS, COLUMNS)),
        ((ROWS,), (1, COLUMNS)),
        ((ROWS, 1), (1, COLUMNS)),
        ((ROWS, 2), (1, 48)),
        ((3, 4), (16, 24)),
        ((3, 1, 4, 1), (16, 24)),
    ],
)
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "scale"])
def test_float8_scales_multiply(
    tmp_path: Path, shape: tuple[int, ...], block: tuple[int, int], name: str
):
    codes = float_codes(np.random.default_rng(0), ROWS, COLUMNS)
    scales = scales_of(shape)
    parts = {"weight": raw("F8_E4M3", codes), name: raw("F32", scales)}
    matrix = read(tmp_path, parts, FP8)
    plain_as(matrix, mx.bfloat16)
    grid = scales.reshape(-(-ROWS // block[0]), -1)
    wide = np.repeat(np.repeat(grid, block[0], 0), block[1], 1)
    assert np.array_equal(read_all(matrix), bfloat16(e4m3(codes) * wide))


def test_blocks_that_do_not_divide_the_matrix(tmp_path: Path):
    codes = float_codes(np.random.default_rng(0), 40, 60)
    scales = scales_of((3, 3))
    parts = {"weight": raw("F8_E4M3", codes), "weight_scale_inv": raw("BF16", scales)}
    wide = np.repeat(np.repeat(scales, 16, 0), 24, 1)[:40, :60]
    wide = (wide.view(np.uint32) >> 16 << 16).view(np.float32)
    assert np.array_equal(read_all(read(tmp_path, parts, FP8)), bfloat16(e4m3(codes) * wide))


def test_exponents_as_block_scales(tmp_path: Path):
    codes = float_codes(np.random.default_rng(0), ROWS, COLUMNS)
    exponents = np.random.default_rng(1).integers(110, 140, (3, 4))
    parts = {"weight": raw("F8_E4M3", codes), "weight_scale_inv": raw("F8_E8M0", exponents)}
    wide = np.repeat(np.repeat(np.exp2(exponents - 127.0), 16, 0), 24, 1).astype(np.float32)
    assert np.array_equal(read_all(read(tmp_path, parts, FP8)), bfloat16(e4m3(codes) * wide))


def test_the_block_that_fits_is_taken_of_several(tmp_path: Path):
    codes = float_codes(np.random.default_rng(0), ROWS, COLUMNS)
    parts = {"weight": raw("F8_E4M3", codes), "weight_scale": raw("F32", scales_of((3, 4)))}
    several = Method("compressed-tensors", block_shapes=((128, 128), (16, 24)))
    assert np.array_equal(
        read_all(read(tmp_path, parts, several)), read_all(read(tmp_path, parts, FP8))
    )
    # 17 rows make three blocks too.
    ambiguous = Method("compressed-tensors", block_shapes=((17, 24), (16, 24)))
    assert "neither" in refusal(tmp_path, parts, ambiguous)


@pytest.mark.parametrize("dtype", ["U8", "F8_E8M0"])
def test_mxfp8_keeps_its_bits(tmp_path: Path, dtype: str):
    rng = np.random.default_rng(0)
    codes, exponents = float_codes(rng, ROWS, COLUMNS), rng.integers(100, 150, (ROWS, 3))
    parts = {"weight": raw("F8_E4M3", codes), "weight_scale": raw(dtype, exponents)}
    matrix = read(tmp_path, parts, Method("compressed-tensors"))
    packed_as(matrix, None, 32, 8, "mxfp8")
    wide = widened(np.exp2(exponents - 127.0), COLUMNS)
    assert np.array_equal(read_all(matrix), (e4m3(codes) * wide).astype(np.float32))


@pytest.mark.parametrize("dtype", ["U8", "F8_E8M0"])
@pytest.mark.parametrize("name", ["weight_packed", "weight"])
def test_mxfp4_keeps_its_bits(tmp_path: Path, dtype: str, name: str):
    rng = np.random.default_rng(0)
    codes, exponents = rng.integers(0, 16, (ROWS, COLUMNS)), rng.integers(100, 150, (ROWS, 3))
    parts = {name: raw("U8", nibbles(codes)), "weight_scale": raw(dtype, exponents)}
    matrix = read(tmp_path, parts, Method("compressed-tensors"))
    packed_as(matrix, None, 32, 4, "mxfp4")
    wide = widened(np.exp2(exponents - 127.0), COLUMNS)
    assert np.array_equal(read_all(matrix), (e2m1(codes) * wide).astype(np.float32))


def nvfp4(
    codes: Array, scales: Array, whole: float, divisor: bool, shape: tuple[int, ...] = (1,)
) -> dict[str, Raw]:
    """compressed-tensors' names with a divisor, ModelOpt's with a multiplier."""
    value = raw("F32", np.full(shape, whole, np.float32))
    names = ("weight_packed", "weight_global_scale") if divisor else ("weight", "weight_scale_2")
    return {
        names[0]: raw("U8", nibbles(codes)),
        "weight_scale": raw("F8_E4M3", scales),
        names[1]: value,
    }


@pytest.mark.parametrize("divisor", [True, False])
def test_nvfp4_with_any_scale_of_the_matrix_is_plain(tmp_path: Path, divisor: bool):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (ROWS, COLUMNS))
    scales = float_codes(rng, ROWS, COLUMNS // 16) & 127
    whole = np.float32(5376 / 0.37 if divisor else 0.37 / 5376)
    matrix = read(tmp_path, nvfp4(codes, scales, float(whole), divisor), None)
    plain_as(matrix, mx.bfloat16)
    joined = e4m3(scales) / whole if divisor else e4m3(scales) * whole
    assert np.array_equal(read_all(matrix), bfloat16(e2m1(codes) * widened(joined, COLUMNS)))


@pytest.mark.parametrize("divisor", [True, False])
@pytest.mark.parametrize("exponent", [0, -3, 2])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_power_of_two_folds_into_nvfp4(
    tmp_path: Path, divisor: bool, exponent: int, shape: tuple[int, ...]
):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (ROWS, COLUMNS))
    scales = rng.integers(40, 100, (ROWS, COLUMNS // 16))  # away from both ends of E4M3
    whole = 2.0 ** (-exponent if divisor else exponent)
    matrix = read(tmp_path, nvfp4(codes, scales, whole, divisor, shape), None)
    packed_as(matrix, None, 16, 4, "nvfp4")
    wide = widened(e4m3(scales) * 2.0**exponent, COLUMNS)
    assert np.array_equal(read_all(matrix), (e2m1(codes) * wide).astype(np.float32))


@pytest.mark.parametrize(("scale", "exponent"), [(0x7E, 1), (0x01, -1), (0x0F, -2)])
@pytest.mark.parametrize("divisor", [True, False])
def test_a_fold_beyond_the_range_of_e4m3_is_plain(
    tmp_path: Path, scale: int, exponent: int, divisor: bool
):
    # The largest value doubled; the least subnormal halved; a normal one that loses a bit.
    codes = np.random.default_rng(0).integers(0, 16, (ROWS, COLUMNS))
    scales = np.full((ROWS, COLUMNS // 16), 56)
    scales[-1, -1] = scale
    whole = 2.0 ** (-exponent if divisor else exponent)
    matrix = read(tmp_path, nvfp4(codes, scales, whole, divisor), None)
    plain_as(matrix, mx.bfloat16)
    wide = widened(e4m3(scales) * 2.0**exponent, COLUMNS)
    assert np.array_equal(read_all(matrix), bfloat16(e2m1(codes) * wide))


@pytest.mark.parametrize("whole", [[0.5, 0.5, 0.5], [0.5, 0.3, 0.5], [0.3, 0.2, 0.1]])
def test_a_stack_of_nvfp4_is_packed_if_all_of_it_can_be(tmp_path: Path, whole: list[float]):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3, ROWS, COLUMNS))
    scales = rng.integers(40, 100, (3, ROWS, COLUMNS // 16))
    parts = nvfp4(codes, scales, 0, False) | {"weight_scale_2": raw("F32", np.array(whole))}
    matrix = read(tmp_path, parts, None)
    joined = e4m3(scales) * np.array(whole, np.float32)[:, None, None]
    expected = bfloat16(e2m1(codes) * widened(joined, COLUMNS))
    if set(whole) == {0.5}:
        packed_as(matrix, None, 16, 4, "nvfp4")
    else:
        plain_as(matrix, mx.bfloat16)
    assert np.array_equal(read_all(matrix), expected)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1), (3, ROWS), (3, ROWS, 1), (3, 3, 4), ()])
def test_stacks_of_float8(tmp_path: Path, shape: tuple[int, ...]):
    codes = float_codes(np.random.default_rng(0), 3, ROWS, COLUMNS)
    scales = scales_of(shape)
    parts = {"weight": raw("F8_E4M3", codes), "weight_scale_inv": raw("F32", scales)}
    matrix = read(tmp_path, parts, FP8)
    plain_as(matrix, mx.bfloat16)
    if shape == (3, 3, 4):
        wide = np.repeat(np.repeat(scales, 16, 1), 24, 2)
    else:
        wide = scales.reshape(*shape, *[1] * (3 - len(shape)))
    assert np.array_equal(read_all(matrix), bfloat16(e4m3(codes) * wide))


@pytest.mark.parametrize("shape", [(2,), (3, 5), (3, ROWS, 1, 1, 7)])
def test_scales_that_fit_no_stack(tmp_path: Path, shape: tuple[int, ...]):
    codes = float_codes(np.random.default_rng(0), 3, ROWS, COLUMNS)
    parts = {"weight": raw("F8_E4M3", codes), "weight_scale_inv": raw("F32", scales_of(shape))}
    assert "fit" in refusal(tmp_path, parts, FP8)


def test_damaged_floats(tmp_path: Path):
    codes = float_codes(np.random.default_rng(0), ROWS, COLUMNS)
    half = nibbles(np.zeros((ROWS, COLUMNS), int))
    scale4 = raw("F8_E4M3", np.zeros((ROWS, 6)))
    for parts, words in [
        ({"weight": raw("F8_E4M3", codes)}, "has no weight_scale_inv or weight_scale"),
        ({"weight": raw("F8_E4M3", codes), "scale": raw("F32", scales_of((3, 5)))}, "neither"),
        ({"weight": raw("F8_E4M3", codes), "scale": raw("F32", scales_of((0,)))}, "neither"),
        ({"weight": raw("F8_E4M3", codes), "scale": raw("I32", np.ones(1))}, "no scales"),
        ({"weight": raw("F8_E4M3", codes[0]), "scale": raw("F32", np.ones(1))}, "no matrix"),
        ({"weight": raw("F8_E5M2", codes), "scale": raw("F32", np.ones(1))}, "supported"),
        ({"weight": raw("U8", half), "weight_scale": scale4}, "whole NVFP4 matrix is missing"),
        (
            {"weight": raw("U8", half), "weight_scale": raw("F32", np.zeros((ROWS, 6)))},
            "neither NVFP4 nor MXFP4",
        ),
        (
            {"weight": raw("U8", half), "weight_scale": raw("F8_E4M3", np.zeros((ROWS, 3)))},
            "16 neighbours",
        ),
        (
            {"weight": raw("U8", half), "weight_scale": raw("U8", np.zeros((ROWS, 6)))},
            "32 neighbours",
        ),
    ]:
        assert words in refusal(tmp_path, parts, FP8), (words, list(parts))
    for value in (0.0, -1.0, np.inf, np.nan):
        parts = nvfp4(np.zeros((ROWS, COLUMNS), int), np.zeros((ROWS, 6)), value, True)
        assert "no scale" in refusal(tmp_path, parts, None)
    both = nvfp4(np.zeros((ROWS, COLUMNS), int), np.zeros((ROWS, 6)), 1, True)
    both["weight_scale_2"] = both["weight_global_scale"]
    assert "exclude each other" in refusal(tmp_path, both, None)
