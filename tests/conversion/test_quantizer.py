"""The search for scales, against float64 arithmetic and against `mx.quantize`."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.conversion.quantizer import pack, quantize
from qwen35_mlx.kernels.quantized import Quantization

FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
AFFINE = [Quantization(group, bits) for group in (32, 64, 128) for bits in (2, 3, 4, 5, 6, 8)]
FLOATS = [Quantization(16, 4, "nvfp4"), Quantization(32, 4, "mxfp4"), Quantization(32, 8, "mxfp8")]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codes_of(words: mx.array, bits: int) -> np.ndarray:
    """The stream of bits, the lowest first, read bit by bit."""
    stream = np.unpackbits(np.array(words).view(np.uint8), axis=-1, bitorder="little")
    codes = stream.reshape(*stream.shape[:-1], -1, bits)
    return (codes * 2 ** np.arange(bits)).sum(-1)


def decoded(parts: list[mx.array], q: Quantization) -> np.ndarray:
    """Values in float64 by the definition of the format."""
    codes = codes_of(parts[0], q.bits)
    groups = codes.reshape(*codes.shape[:-1], -1, q.group_size)
    scales = np.array(parts[1].astype(mx.float32) if q.mode == "affine" else parts[1])
    if q.mode == "affine":
        biases = np.array(parts[2].astype(mx.float32)).astype(np.float64)
        values = groups * scales.astype(np.float64)[..., None] + biases[..., None]
    else:
        values = np.where(groups & 8, -1.0, 1.0) * FLOAT4[groups & 7]
        values *= (e4m3(scales) if q.mode == "nvfp4" else 2.0 ** (scales - 127.0))[..., None]
    return values.reshape(codes.shape)


def e4m3(bits: np.ndarray) -> np.ndarray:
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    return np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))


def group_errors(
    parts: list[mx.array], values: mx.array, q: Quantization, weights: np.ndarray | None = None
) -> np.ndarray:
    squares = (decoded(parts, q) - np.array(values.astype(mx.float32)).astype(np.float64)) ** 2
    if weights is not None:
        squares = squares * weights
    return squares.reshape(-1, q.group_size).sum(-1)


def plain(values: mx.array, q: Quantization) -> list[mx.array]:
    return list(mx.quantize(values, q.group_size, q.bits, mode=q.mode))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_packing_is_that_of_mlx(bits: int):
    words = plain(mx.array(normal(4, 256)), Quantization(64, bits))[0]
    codes = codes_of(words, bits).astype(np.uint32)
    assert mx.array_equal(pack(mx.array(codes), bits), words)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("q", AFFINE, ids=str)
def test_no_group_is_worse_than_with_its_full_span(q: Quantization, dtype: mx.Dtype):
    values = mx.array(normal(8, 512)).astype(dtype)
    parts = quantize(values, q)
    assert [part.shape for part in parts] == list(q.packed(values.shape).values())
    assert [part.dtype for part in parts] == [mx.uint32, dtype, dtype]
    searched, spanned = (group_errors(p, values, q) for p in (parts, plain(values, q)))
    # Errors are compared in float32 there.
    assert (searched <= spanned * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize(("bits", "most"), [(2, 0.72), (3, 0.79), (4, 0.85), (6, 0.88)])
def test_error_of_normal_values_falls_as_far_as_the_search_can_bring_it(bits: int, most: float):
    values, q = mx.array(normal(128, 1024)).astype(mx.bfloat16), Quantization(64, bits)
    searched, spanned = (
        group_errors(p, values, q).sum() for p in (quantize(values, q), plain(values, q))
    )
    assert searched <= most * spanned


def test_scale_and_bias_are_those_of_least_squares_for_their_codes():
    values, q = mx.array(normal(16, 256, seed=3)), Quantization(64, 4)
    parts = quantize(values, q)
    exact = group_errors(parts, values, q)
    codes = codes_of(parts[0], 4).reshape(-1, 64).astype(np.float64)
    groups = np.array(values).reshape(-1, 64).astype(np.float64)
    fits = [np.polynomial.Polynomial.fit(c, g, 1) for c, g in zip(codes, groups, strict=True)]
    squares = [((fit(c) - g) ** 2).sum() for fit, c, g in zip(fits, codes, groups, strict=True)]
    # The codes are chosen once more after the fit.
    assert exact.sum() <= 1.01 * np.sum(squares)
    assert (exact <= 1.05 * np.array(squares)).all()


def test_importance_moves_the_error_to_values_that_count_less():
    values, q = mx.array(normal(32, 512, seed=4)), Quantization(64, 3)
    importance = np.where(np.arange(512) % 4 == 0, 50.0, 1.0).astype(np.float32)
    weights = np.broadcast_to(importance, values.shape)
    weighted, unweighted = (
        group_errors(parts, values, q, weights).sum()
        for parts in (quantize(values, q, mx.array(importance)), quantize(values, q))
    )
    assert weighted < 0.75 * unweighted
    ones = quantize(values, q, mx.ones((512,)))
    assert all(mx.array_equal(a, b) for a, b in zip(ones, quantize(values, q), strict=True))


def test_importance_of_nothing_keeps_the_full_span():
    values, q = mx.array(normal(2, 128)), Quantization(64, 4)
    parts = quantize(values, q, mx.zeros((128,)))
    for part, expected in zip(parts[1:], plain(values, q)[1:], strict=True):
        assert mx.array_equal(part, expected)


def one_group(name: str) -> np.ndarray:
    group = normal(1, 64, seed=5)
    match name:
        case "all zero":
            return np.zeros_like(group)
        case "all equal":
            return np.full_like(group, -0.37)
        case "two values":
            return np.where(group > 0, np.float32(1.5), np.float32(-0.25))
        case "one outlier":
            group[0, 7] = 1000
            return group
        case "subnormal":
            return group * np.float32(1e-40)
        case "tiny":
            return group * np.float32(1e-20)
        case "huge":
            return group * np.float32(5e37)
        case "widest":
            return np.clip(group, -1, 1) * np.float32(3e38)
        case _:
            return np.where(group > 0, group, 0)  # half of them zero


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    "name",
    [
        "all zero",
        "all equal",
        "two values",
        "one outlier",
        "subnormal",
        "tiny",
        "huge",
        "widest",
        "half zero",
    ],
)
def test_odd_groups_stay_finite_and_no_worse(name: str, bits: int, dtype: mx.Dtype):
    values, q = (
        mx.array(np.repeat(one_group(name), 2, axis=1)).astype(dtype),
        Quantization(64, bits),
    )
    parts = quantize(values, q)
    assert all(mx.isfinite(part).all() for part in parts[1:])
    searched = group_errors(parts, values, q)
    with np.errstate(invalid="ignore", over="ignore"):
        spanned = group_errors(plain(values, q), values, q)
    assert (searched <= spanned * (1 + 1e-4) + 1e-30).all() or not np.isfinite(spanned).all()
    largest = np.abs(np.array(values.astype(mx.float32))).astype(np.float64).max()
    if name in ("all zero", "all equal"):
        assert np.array_equal(decoded(parts, q), np.array(values.astype(mx.float32)))
    elif name in ("tiny", "huge", "widest"):
        assert (np.sqrt(searched / 64) <= 0.3 * largest).all()


def test_squares_of_large_values_do_not_overflow():
    values, q = mx.array(normal(16, 256)), Quantization(64, 4)
    one, other = quantize(values, q), quantize(values * 2.0**100, q)
    assert mx.array_equal(one[0], other[0])
    for part, scaled in zip(one[1:], other[1:], strict=True):
        assert mx.array_equal(part * 2.0**100, scaled)


def test_values_too_small_for_the_span_of_mlx_are_kept():
    """`mx.quantize` has no scale below 1e-7."""
    values, q = mx.array(1e-12 * normal(4, 128)), Quantization(64, 4)
    searched, spanned = (
        group_errors(p, values, q).sum() for p in (quantize(values, q), plain(values, q))
    )
    assert searched < 0.02 * spanned


@pytest.mark.parametrize("q", FLOATS, ids=str)
def test_float_modes_are_no_worse_than_in_mlx(q: Quantization):
    values = mx.array(normal(16, 512)).astype(mx.bfloat16)
    parts = quantize(values, q)
    assert [part.shape for part in parts] == list(q.packed(values.shape).values())
    if q.mode == "mxfp8":
        assert all(mx.array_equal(a, b) for a, b in zip(parts, plain(values, q), strict=True))
        return
    searched, spanned = (group_errors(p, values, q) for p in (parts, plain(values, q)))
    assert (searched <= spanned * (1 + 1e-4)).all()
    assert searched.sum() < (0.8 if q.mode == "nvfp4" else 0.95) * spanned.sum()
    loaded = mx.dequantize(*parts, None, q.group_size, q.bits, q.mode, dtype=mx.float32)
    assert np.allclose(np.array(loaded), decoded(parts, q))


def test_float_modes_keep_zeros_and_the_largest_scale():
    values = np.zeros((1, 64), np.float32)
    values[0, 32:] = 2688 * np.sign(normal(32))  # 448 * 6, the largest of nvfp4
    parts = quantize(mx.array(values), Quantization(16, 4, "nvfp4"))
    assert np.array_equal(decoded(parts, Quantization(16, 4, "nvfp4")), values)


def test_pieces_of_a_large_matrix_are_as_the_whole(monkeypatch: pytest.MonkeyPatch):
    values, q = mx.array(normal(8, 512)), Quantization(64, 5)
    whole = quantize(values, q, mx.array(np.abs(normal(8, 512, seed=9))))
    monkeypatch.setattr("qwen35_mlx.conversion.quantizer._PIECE", 192)
    pieces = quantize(values, q, mx.array(np.abs(normal(8, 512, seed=9))))
    assert all(mx.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_a_stack_and_an_empty_matrix():
    stack, q = mx.array(normal(6, 128)).reshape(2, 3, 128), Quantization(32, 4)
    flat = quantize(stack.reshape(6, 128), q)
    for part, expected in zip(quantize(stack, q), flat, strict=True):
        assert mx.array_equal(part.reshape(6, -1), expected)
    empty = quantize(mx.zeros((0, 128)), q)
    assert [part.shape for part in empty] == list(q.packed((0, 128)).values())
