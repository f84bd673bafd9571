"""A few tokens times a matrix, with norm and residual, against float64."""

from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import matvec
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import (
    Quantization,
    QuantizedWeight,
    chunk_values,
    quantized_matmul,
    simd_groups_for,
)
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS
from tests.kernels.cases import relative_error
from tests.kernels.matvec_cases import (
    EPS,
    FORMATS,
    MXFP4,
    MXFP8,
    NVFP4,
    OTHER_FORMATS,
    float64,
    normal,
    one_by_one,
    packed,
    rms,
    stored,
    wide,
)
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")


def plain(x, w, norm=None, residual=None, *, glu=False) -> mx.array:
    return matvec.reference(x, partial(quantized_matmul, w=w), norm, residual, glu=glu)


IMPLEMENTATIONS = [matvec.kernel, plain]


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize(("group", "bits"), FORMATS)
def test_every_format(compute, group, bits):
    x, w = normal(3, 1, 1, 2 * group), packed(257, 2 * group, group, bits)
    got = compute(x, w)
    assert got.shape == (1, 1, 257)
    assert relative_error(got, float64(x, w)) < 2e-6


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("out", [1, 5])
def test_fewer_rows_than_a_thread_reads(compute, bits, out):
    x, w = normal(3, 1, 1, 512), packed(out, 512, 64, bits)
    got = compute(x, w)
    assert got.shape == (1, 1, out)
    assert relative_error(got, float64(x, w)) < 2e-6


# One chunk, one less than a SIMD group takes, several SIMD groups, and several rounds of them.
@pytest.mark.parametrize("width", [32, 31 * 32, 2560, 9728])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_any_length(width, bits):
    x, w = normal(3, 1, width), packed(9, width, 32, bits)
    norm, residual = rms(width), normal(4, 1, 9)
    got = matvec.kernel(x, w, norm, residual)
    assert relative_error(got, float64(x, w, norm, residual)) < 2e-6


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("glu", [False, True])
def test_norm_residual_and_glu(compute, normed, added, glu):
    x, w = normal(3, 1, 320), packed(2 * 13, 320, 64, 4)
    norm = rms(320) if normed else None
    residual = normal(4, 1, 13 if glu else 26) if added else None
    got = compute(x, w, norm, residual, glu=glu)
    assert relative_error(got, float64(x, w, norm, residual, glu=glu)) < 2e-6


@pytest.mark.parametrize("out", [1, 4, 5])
def test_gates_and_ups_of_few_rows(out):
    x, w = normal(3, 1, 128), packed(2 * out, 128, 32, 8)
    got = matvec.kernel(x, w, glu=True)
    assert got.shape == (1, out)
    assert relative_error(got, float64(x, w, glu=True)) < 2e-6


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
def test_a_row_near_zero_keeps_its_precision(compute):
    x, w, norm = 1e-4 * normal(3, 1, 256), packed(8, 256, 64, 4), rms(256)
    assert relative_error(compute(x, w, norm), float64(x, w, norm)) < 2e-6


# The kernel only: on a CPU the reference accumulates in half precision.
@pytest.mark.parametrize(
    ("dtype", "bits"), [(mx.bfloat16, 4), (mx.float16, 4), (mx.bfloat16, 5), (mx.float16, 6)]
)
@pytest.mark.parametrize("glu", [False, True])
def test_half_precision(dtype, bits, glu):
    x, w = normal(3, 1, 1, 512, dtype=dtype), packed(36, 512, 64, bits, dtype)
    norm, residual = rms(512, dtype), normal(4, 1, 1, 18 if glu else 36, dtype=dtype)
    got = matvec.kernel(x, w, norm, residual, glu=glu)
    assert got.dtype == dtype
    assert relative_error(got, float64(x, w, norm, residual, glu=glu)) < 1e-2


# As converted files have them: norms in float32, and scales of a file in another half precision.
@pytest.mark.parametrize(
    ("scales", "weight"), [(mx.float16, mx.bfloat16), (mx.float32, mx.float32)], ids=str
)
@pytest.mark.parametrize("glu", [False, True])
def test_scales_and_norms_of_other_dtypes(scales, weight, glu):
    x, w = normal(3, 1, 1, 512, dtype=mx.bfloat16), packed(36, 512, 64, 4, scales)
    norm = rms(512, weight)
    assert matvec.supports(x, w)
    got = matvec.kernel(x, w, norm, glu=glu)
    assert got.dtype == mx.bfloat16
    assert relative_error(got, float64(x, w, norm, glu=glu)) < 1e-2


def test_a_norm_in_float32_is_not_rounded():
    """Its weights would become 1 in bfloat16; some of the normed x then round differently."""
    w = packed(9, 128, 64, 8)
    x = normal(3, 1, 128, dtype=mx.bfloat16)
    norm = RMSNorm(mx.full((128,), 1 + 2**-9 + 2**-16), EPS)
    rounded = RMSNorm(norm.weight.astype(mx.bfloat16), EPS)
    got = matvec.kernel(x, w, norm)
    assert relative_error(got, float64(x, w, norm)) < 1e-2
    assert not mx.array_equal(got, matvec.kernel(x, w, rounded))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_the_product_is_rounded_before_the_residual_is_added(dtype):
    x, w = normal(3, 1, 512, dtype=dtype), packed(257, 512, 64, 4, dtype)
    residual = 3 * normal(4, 1, 257, dtype=dtype)
    assert mx.array_equal(matvec.kernel(x, w, None, residual), residual + matvec.kernel(x, w))


@pytest.mark.parametrize("variant", matvec.VARIANTS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_the_norm_is_rounded_before_the_product(dtype, variant):
    # Differences of neighbours, which depend on the rounding alone.
    width = 64
    signs = np.full((width // 2, width), 1, np.uint8)
    pair = np.arange(width // 2)
    signs[pair, 2 * pair], signs[pair, 2 * pair + 1] = 2, 0
    scales = mx.ones((width // 2, width // 32), dtype)
    w = QuantizedWeight(mx.array(signs).view(mx.uint32), scales, -scales, Quantization(32, 8))
    x = mx.repeat(normal(3, 1, width // 2, dtype=dtype), 2, axis=-1)
    norm = RMSNorm(mx.where(mx.arange(width) % 2, 1.0, 1 - 2**-8).astype(dtype), EPS)
    rows = wide(x)
    rows = rows / np.sqrt((rows * rows).mean() + EPS) * wide(norm.weight)
    normed = wide(mx.array(rows.astype(np.float32)).astype(dtype))
    want = normed[:, ::2] - normed[:, 1::2]
    assert relative_error(matvec.kernel(x, w, norm, variant=variant), want) < 1e-2


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
@pytest.mark.parametrize(("tokens", "glu"), [(1, False), (1, True), (3, True)])
def test_order_and_contraction_do_not_matter(tokens, glu):
    width = 9 * 1024 + 32  # two rounds, the last one chunk short
    x, w, norm = normal(3, tokens, width), packed(10, width, 32, 4), rms(width)
    residual = normal(4, tokens, 5 if glu else 10)
    got = matvec.kernel(x, w, norm, residual, glu=glu)
    assert relative_error(got, float64(x, w, norm, residual, glu=glu)) < 2e-6
    assert mx.array_equal(got, one_by_one(x, w, norm, residual, glu=glu))


@pytest.mark.parametrize("tokens", range(2, MAX_DECODE_TOKENS + 1))
def test_a_few_tokens(tokens):
    x, w = normal(3, 1, tokens, 1088), packed(21, 1088, 64, 4)  # two SIMD groups, the last not full
    norm, residual = rms(1088), normal(4, 1, tokens, 21)
    got = matvec.kernel(x, w, norm, residual)
    assert relative_error(got, float64(x, w, norm, residual)) < 2e-6
    assert mx.array_equal(got, one_by_one(x, w, norm, residual))


@pytest.mark.parametrize(("group", "bits"), FORMATS)
def test_a_token_is_the_same_to_the_bit_beside_others_in_every_format(group, bits):
    width = 3 * max(group, chunk_values(bits))
    x, w = normal(3, 8, width), packed(22, width, group, bits)
    norm, residual = rms(width), normal(4, 8, 11)
    got = matvec.kernel(x, w, norm, residual, glu=True)
    assert relative_error(got, float64(x, w, norm, residual, glu=True)) < 2e-6
    assert mx.array_equal(got, one_by_one(x, w, norm, residual, glu=True))


@pytest.mark.parametrize("form", OTHER_FORMATS, ids=str)
def test_floats_and_unquantised_matrices(form):
    """Of one token and of a few, with all that is fused."""
    x, w = normal(3, 3, 352), stored(22, 352, form)
    norm, residual = rms(352), normal(4, 3, 11)
    assert matvec.supports(x, w)
    got = matvec.kernel(x, w, norm, residual, glu=True)
    assert relative_error(got, float64(x, w, norm, residual, glu=True)) < 2e-6
    assert mx.array_equal(got, one_by_one(x, w, norm, residual, glu=True))


# The last round has one chunk, or two. Eight tokens hold fewer rows, and one slab of x at a time.
@pytest.mark.parametrize(("form", "chunk"), [(NVFP4, 32), (mx.bfloat16, 8)], ids=str)
def test_long_rows_of_floats_and_unquantised_matrices(form, chunk):
    width = 192 * chunk + 32
    x, w = normal(3, 1, width), stored(9, width, form)
    assert relative_error(matvec.kernel(x, w), float64(x, w)) < 2e-6


@pytest.mark.parametrize("form", [MXFP4, MXFP8, NVFP4], ids=lambda form: form.mode)
def test_every_code_of_a_value_and_of_a_scale(form):
    """Signs, subnormal values and the biases of the exponents: nothing is rounded."""
    values = np.zeros((256, 64), np.uint8)
    values[:, 0] = np.arange(256)
    if form.bits == 4:
        values = (values[:, ::2] & 15) + (values[:, 1::2] << 4)
    one = {"mxfp4": 127, "mxfp8": 127, "nvfp4": 56}[form.mode]
    scales = np.full((256, 64 // form.group_size), one, np.uint8)
    x = mx.zeros((1, 64)).at[:, 0].add(1)

    def check(values: np.ndarray, scales: np.ndarray, codes: list[int]) -> None:
        words = mx.array(values).view(mx.uint32)
        w = QuantizedWeight(words, mx.array(scales), None, form)
        got = np.array(matvec.kernel(x, w))[0]
        np.testing.assert_array_equal(got[codes], np.array(w.dequantized(mx.float32))[codes, 0])

    # 127 and 255 are NaN.
    codes = [c for c in range(256) if c % 128 < 127]
    check(values, scales, codes)
    values[:] = 0
    values[:, 0] = 0b0010 if form.bits == 4 else 0b0_0111_000  # 1
    scales[:, 0] = np.arange(256)
    # Powers of two from 2^-112 on: below, the sum may be no normal float.
    check(values, scales, codes if form is NVFP4 else list(range(15, 255)))


@pytest.mark.parametrize("form", [mx.float32, mx.float16], ids=str)
def test_an_unquantised_matrix_of_another_dtype_is_not_rounded(form):
    x = normal(3, 1, 1, 512, dtype=mx.bfloat16)
    # Differences of weights that are equal in bfloat16.
    w = (1 + mx.where(mx.arange(512) % 2, 1, -1) * mx.full((16, 1), 2**-9)).astype(form)
    x = mx.where(mx.arange(512) % 2, 1, -1).astype(mx.bfloat16)[None]
    got = matvec.kernel(x, w)
    assert got.dtype == mx.bfloat16
    assert relative_error(got, float64(x, w)) < 1e-2


@pytest.mark.parametrize("shape", [(2,), (3, 1), (5, 1), (2, 4)])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_a_token_is_the_same_to_the_bit_beside_other_conversations(shape, dtype):
    x, w = normal(3, *shape, 512, dtype=dtype), packed(36, 512, 64, 4, dtype)
    norm, residual = rms(512, dtype), normal(4, *shape, 36, dtype=dtype)
    got = matvec.kernel(x, w, norm, residual)
    assert got.shape == residual.shape
    assert relative_error(got, float64(x, w, norm, residual)) < 1e-2
    assert mx.array_equal(got, one_by_one(x, w, norm, residual))


# More than fits in registers, in threadgroup memory at once, and in one round.
@pytest.mark.parametrize(("width", "bits"), [(2560, 4), (9728, 4), (2560, 8)])
@pytest.mark.parametrize("tokens", [2, 3, 8])
def test_long_rows_of_a_few_tokens(width, bits, tokens):
    x, w = normal(3, tokens, width), packed(9, width, 32, bits)
    norm, residual = rms(width), normal(4, tokens, 9)
    got = matvec.kernel(x, w, norm, residual)
    assert relative_error(got, float64(x, w, norm, residual)) < 2e-6
    assert mx.array_equal(got, one_by_one(x, w, norm, residual))


# The second round has three chunks, each of which must start at a word of its own.
@pytest.mark.parametrize("bits", [3, 5, 6])
@pytest.mark.parametrize("tokens", [2, 5])
def test_values_that_lie_in_two_words_of_long_rows(tokens, bits):
    width = 192 * 32 + 96
    x, w = normal(3, tokens, width), packed(10, width, 32, bits)
    norm, residual = rms(width), normal(4, tokens, 5)
    got = matvec.kernel(x, w, norm, residual, glu=True)
    assert relative_error(got, float64(x, w, norm, residual, glu=True)) < 2e-6
    assert mx.array_equal(got, one_by_one(x, w, norm, residual, glu=True))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 16, 32])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("tokens", range(1, MAX_DECODE_TOKENS + 1))
def test_every_tiling_fits(tokens, itemsize, bits):
    for width in range(128, 32768, 128):
        tiling = matvec.tiling_for(tokens, width, bits, itemsize)
        groups = simd_groups_for(width, bits)
        threads = 32 * groups
        results = tiling.rows * tokens
        staged = tokens * tiling.slab * (threads + 16 // tiling.slab) * 4 * itemsize
        sums = 4 * (tiling.sets * results + tokens) * groups
        assert staged + sums <= 32768
        assert results <= threads
        assert tiling.slab % tiling.sets == chunk_values(bits) // 4 % tiling.slab == 0
        # Words of w that a thread holds beside several tokens.
        assert tokens == 1 or tiling.rows * chunk_values(bits) * bits // 32 <= 32
        # A GPU of NVIDIA has 65,536 registers, a thread at most 255, or 200 of these.
        assert tiling.sets * threads * (255 if results > 32 else 200) <= 65536


def test_unsupported_inputs_are_left_to_the_reference():
    x, w = normal(3, 1, 1, 128), packed(8, 128, 64, 4)
    assert matvec.supports(x, w)
    assert matvec.supports(normal(3, 2, 4, 128), w)
    assert not matvec.supports(normal(3, 1, 9, 128), w)
    assert not matvec.supports(mx.zeros((1, 0, 128)), w)
    assert not matvec.supports(x, packed(8, 128, 64, 1))
    assert not matvec.supports(x, mx.zeros((8, 128), mx.int8))
    # Rows must be whole chunks, of 64 values at 2 bits, and of 32 values of x at least.
    assert not matvec.supports(normal(3, 1, 96), packed(8, 96, 32, 2))
    assert not matvec.supports(normal(3, 1, 48), stored(8, 48, mx.bfloat16))
    assert not matvec.supports(normal(3, 1, 48), stored(8, 48, NVFP4))
    # One matrix, not a stack.
    assert not matvec.supports(x, mx.zeros((3, 8, 128)))
    # Metal passes fewer than 8 words or scales in another address space.
    assert not matvec.supports(normal(3, 1, 32), packed(1, 32, 32, 4))
    assert not matvec.supports(x, packed(3, 128, 64, 8))
    half = packed(8, 128, 64, 4, mx.float16)
    assert not matvec.supports(x, replace(half, biases=half.biases.astype(mx.float32)))
