"""Plain and quantised matrices, rotated ones, fused projections and expert stacks."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import matvec
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.linear import FusedLinear, Linear
from tests.kernels.cases import hadamard

mx.random.seed(0)
FORMATS = [
    ("affine", 64, 4),
    ("affine", 32, 8),
    ("mxfp4", 32, 4),
    ("mxfp8", 32, 8),
    ("nvfp4", 16, 4),
]


def quantized(weight: mx.array, mode: str, group: int, bits: int) -> Linear:
    packed, scales, *biases = mx.quantize(weight, group, bits, mode)
    quantization = Quantization(group, bits, mode)
    return Linear(QuantizedWeight(packed, scales, biases[0] if biases else None, quantization))


def draw(*shape: int) -> mx.array:
    return mx.random.normal(shape)


@pytest.mark.parametrize("format", FORMATS)
def test_fused_projections_equal_the_parts(format):
    parts = [quantized(draw(n, 128), *format) for n in (64, 32, 1)]
    fused = FusedLinear(*parts)
    assert fused.matmuls == 1
    x = draw(2, 3, 128)
    for got, part in zip(fused(x), parts, strict=True):
        np.testing.assert_allclose(np.array(got), np.array(part(x)), atol=1e-4)


def test_parts_of_different_formats_are_not_joined_and_keep_their_order():
    parts = [
        Linear(draw(8, 64)),
        Linear(draw(4, 64)),
        quantized(draw(16, 64), "affine", 64, 4),
        quantized(draw(8, 64), "affine", 64, 8),
        Linear(draw(2, 64).astype(mx.bfloat16)),
    ]
    fused = FusedLinear(*parts)
    assert fused.matmuls == 4
    x = draw(5, 64)
    for got, part in zip(fused(x), parts, strict=True):
        np.testing.assert_allclose(np.array(got), np.array(part(x)), atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_rows_equal_the_matrix(format):
    weight = draw(10, 128)
    linear = quantized(weight, *format)
    ids = mx.array([[3, 9], [0, 3]])
    matrix = np.array(linear(mx.eye(128)).T)
    got = np.array(linear.rows(ids, mx.float32))
    np.testing.assert_allclose(got, matrix[np.array(ids)], atol=2e-2)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("format", [None, FORMATS[0]])
def test_gather_takes_each_input_through_its_own_expert(dtype, format):
    stack = draw(4, 32, 64).astype(dtype)
    linear = Linear(stack) if format is None else quantized(stack, *format)
    x = draw(6, 1, 64).astype(dtype)
    experts = mx.array([0, 0, 1, 2, 2, 3])
    got = linear.gather(x, experts, sorted_indices=True)
    assert got.shape == (6, 1, 32)
    assert got.dtype == dtype
    for i, e in enumerate(experts.tolist()):
        one = Linear(stack[e]) if format is None else quantized(stack[e], *format)
        want = np.array(one(x[i]).astype(mx.float32))
        np.testing.assert_allclose(np.array(got[i].astype(mx.float32)), want, atol=0.1, rtol=0.02)


# What files of several tools hold in one layer: groups of 32 as of GGUF's Q8_0 and Q5_1, packed
# beside plain, other bits for each part.
MIXED = [
    [("affine", 64, 3), ("affine", 64, 4)],
    [("affine", 32, 8), ("affine", 32, 5)],
    [None, ("affine", 64, 4)],
    [("nvfp4", 16, 4), ("mxfp4", 32, 4)],
    [("affine", 64, 1), ("affine", 128, 2)],
]


def part(weight: mx.array, format: tuple[str, int, int] | None) -> tuple[Linear, np.ndarray]:
    """A matrix in a format, and its plain values in float64."""
    if format is None:
        return Linear(weight), wide(weight)
    linear = quantized(weight, *format)
    assert isinstance(linear.weight, QuantizedWeight)
    return linear, wide(linear.weight.dequantized(mx.float32))


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("formats", MIXED, ids=str)
def test_gate_and_up_of_different_formats(formats):
    (gate, plain_gate), (up, plain_up) = (part(draw(24, 128) / 11, f) for f in formats)
    x = draw(3, 128)
    got = FusedLinear(gate, up).glu(x)
    want = silu(wide(x) @ plain_gate.T) * (wide(x) @ plain_up.T)
    np.testing.assert_allclose(np.array(got), want, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("formats", MIXED, ids=str)
def test_expert_stacks_of_different_formats(formats, rows):
    parts = [part(draw(4, 24, 128) / 11, f) for f in formats]
    x, experts = draw(6, rows, 128), [3, 1, 1, 0, 2, 3]
    fused = FusedLinear(*(linear for linear, _ in parts))
    products = fused.gather(x, mx.array(experts))
    for got, (_, plain) in zip(products, parts, strict=True):
        want = np.stack([wide(x[i]) @ plain[e].T for i, e in enumerate(experts)])
        np.testing.assert_allclose(np.array(got), want, atol=1e-5)


@pytest.mark.parametrize("format", [None, ("affine", 32, 8)])
def test_a_wider_dtype_of_the_weight_does_not_widen_activations(format):
    """Scales in float32, as dequantised files have them, or a single float32 matrix."""
    x = draw(2, 1, 128).astype(mx.bfloat16)
    linear, plain = part(draw(24, 128) / 11, format)
    stack, _ = part(draw(4, 24, 128) / 11, format)
    half, _ = part(draw(8, 128).astype(mx.bfloat16), None)
    got = linear(x)
    assert got.dtype == mx.bfloat16
    np.testing.assert_allclose(wide(got), wide(x) @ plain.T, atol=2e-2)
    assert FusedLinear(linear, half).joined(x).dtype == mx.bfloat16
    assert linear(x, residual=got).dtype == mx.bfloat16
    assert stack.gather(x, mx.array([0, 3])).dtype == mx.bfloat16
    assert linear.rows(mx.array([1]), mx.bfloat16).dtype == mx.bfloat16


# Rotated matrices, against the product with the plain matrix in float64.

WIDTH, BLOCK = 1024, 512


def rotation(seed: int = 0, block: int = BLOCK) -> HadamardRotation:
    signs = np.random.default_rng(seed).choice([-1, 1], WIDTH)
    return HadamardRotation(block, mx.array(signs, mx.float32))


def unrotated(rows: np.ndarray, rotation: HadamardRotation) -> np.ndarray:
    """What rows that are rotated now were before."""
    return hadamard(rows, rotation.block) * wide(rotation.signs)


def rotated(
    rotation: HadamardRotation,
    *rows: int,
    format: tuple[str, int, int] | None = ("affine", 128, 2),
    selection: KernelSelection | None = None,
) -> tuple[Linear, np.ndarray]:
    """A matrix whose stored rows are rotated, and the plain matrix that it stands for."""
    linear, stored = part(draw(*rows, WIDTH) / 30, format)
    return Linear(linear.weight, selection, rotation), unrotated(stored, rotation)


@pytest.mark.parametrize("format", [None, ("affine", 128, 2), ("affine", 64, 4)])
def test_a_rotated_matrix_equals_the_plain_one(format):
    linear, plain = rotated(rotation(), 24, format=format)
    x, residual = draw(2, 3, WIDTH), draw(2, 3, 24)
    norm = RMSNorm(1 + draw(WIDTH) / 5, 1e-6)
    product = wide(norm(x)) @ plain.T
    np.testing.assert_allclose(np.array(linear(x)), wide(x) @ plain.T, atol=1e-5)
    got = linear(x, norm, residual)
    np.testing.assert_allclose(np.array(got), wide(residual) + product, atol=1e-5)
    gate, up = np.split(product, 2, axis=-1)
    np.testing.assert_allclose(np.array(linear(x, norm, glu=True)), silu(gate) * up, atol=1e-5)


def test_rows_of_a_rotated_embedding_are_rotated_back():
    linear, plain = rotated(rotation(), 10)
    ids = mx.array([[3, 9], [0, 3]])
    np.testing.assert_allclose(np.array(linear.rows(ids, mx.float32)), plain[ids], atol=1e-6)
    half = linear.rows(ids, mx.float16)
    assert half.dtype == mx.float16
    np.testing.assert_allclose(wide(half), plain[ids], rtol=2**-11, atol=1e-6)


def test_a_rotated_stack_of_experts():
    linear, plain = rotated(rotation(), 4, 24)
    x, experts = draw(3, 2, WIDTH), [3, 0, 3]
    want = np.stack([wide(x[i]) @ plain[e].T for i, e in enumerate(experts)])
    for got in (
        linear.gather(x, mx.array(experts)),
        FusedLinear(linear, linear).gather(x, mx.array(experts))[1],
    ):
        np.testing.assert_allclose(np.array(got), want, atol=1e-5)


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The block of each transform that is computed."""
    calls: list[int] = []
    transform: Callable[..., mx.array] = mx.hadamard_transform

    def counted(x: mx.array, scale: float) -> mx.array:
        calls.append(x.shape[-1])
        return transform(x, scale=scale)

    monkeypatch.setattr(mx, "hadamard_transform", counted)
    return calls


def test_projections_of_equal_rotation_are_joined_and_share_it(transforms):
    """Equal by value: each module of a checkpoint has signs of its own."""
    parts = [rotated(rotation(), n) for n in (8, 16)]
    fused, x = FusedLinear(*(linear for linear, _ in parts)), draw(2, WIDTH)
    assert fused.matmuls == 1
    got = fused(x)
    assert transforms == [BLOCK]
    for y, (_, plain) in zip(got, parts, strict=True):
        np.testing.assert_allclose(np.array(y), wide(x) @ plain.T, atol=1e-5)


def test_projections_of_other_formats_share_a_rotation_and_plain_ones_have_none(transforms):
    same, other, block = rotation(), rotation(1), rotation(block=1024)
    parts = [
        rotated(same, 8),
        rotated(same, 4, format=("affine", 64, 4)),
        part(draw(4, WIDTH) / 30, None),
        rotated(other, 8),
        rotated(block, 8),
        rotated(rotation(), 8),
    ]
    fused, x = FusedLinear(*(linear for linear, _ in parts)), draw(2, WIDTH)
    assert fused.matmuls == 6
    norm = RMSNorm(1 + draw(WIDTH) / 5, 1e-6)
    got = fused(x, norm)
    assert sorted(transforms) == [BLOCK, BLOCK, 1024]
    for y, (_, plain) in zip(got, parts, strict=True):
        np.testing.assert_allclose(np.array(y), wide(norm(x)) @ plain.T, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("fuse", [False, True])
def test_the_decode_kernel_does_not_skip_the_rotation_between_norm_and_product(fuse):
    selection = KernelSelection()
    linear, plain = rotated(rotation(), 24, format=("affine", 64, 4), selection=selection)
    selection.select("matmul_decode", matvec.KERNEL, linear.packing)
    x, norm = draw(1, 1, WIDTH), RMSNorm(1 + draw(WIDTH) / 5, 1e-6)
    assert isinstance(linear.weight, QuantizedWeight)
    assert matvec.supports(x, linear.weight)
    got = FusedLinear(linear).joined(x, norm) if fuse else linear(x, norm)
    np.testing.assert_allclose(np.array(got), wide(norm(x)) @ plain.T, atol=1e-5)
