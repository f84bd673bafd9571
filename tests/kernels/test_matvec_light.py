"""The variant of `matvec` that stages nothing, against float64."""

from functools import partial

import mlx.core as mx
import pytest

from qwen35_mlx.kernels import matvec
from qwen35_mlx.kernels.quantized import chunk_values
from tests.kernels.cases import relative_error
from tests.kernels.matvec_cases import (
    FORMATS,
    OTHER_FORMATS,
    float64,
    normal,
    one_by_one,
    packed,
    rms,
    stored,
)
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")

light = partial(matvec.kernel, variant=matvec.LIGHT)
each = partial(one_by_one, variant=matvec.LIGHT)


# The last SIMD group has one row; 33 and 65 chunks give lane 0 more than the others.
@pytest.mark.parametrize(("group", "bits"), FORMATS)
@pytest.mark.parametrize(("tokens", "chunks"), [(1, 65), (8, 33)])
def test_every_affine_format(group, bits, tokens, chunks):
    width = -(-chunks * chunk_values(bits) // group) * group
    x, w = normal(3, tokens, width), packed(2 * 9, width, group, bits)
    norm, residual = rms(width), normal(4, tokens, 9)
    got = light(x, w, norm, residual, glu=True)
    assert relative_error(got, float64(x, w, norm, residual, glu=True)) < 2e-6
    assert mx.array_equal(got, each(x, w, norm, residual, glu=True))


@pytest.mark.parametrize("form", OTHER_FORMATS, ids=str)
def test_floats_and_unquantised_matrices(form):
    x, w = normal(3, 3, 352), stored(21, 352, form)
    norm, residual = rms(352), normal(4, 3, 21)
    got = light(x, w, norm, residual)
    assert relative_error(got, float64(x, w, norm, residual)) < 2e-6
    assert mx.array_equal(got, each(x, w, norm, residual))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("tokens", [1, 2])
def test_norm_residual_and_glu(tokens, normed, added, glu):
    x, w = normal(3, tokens, 1, 320), packed(2 * 13, 320, 64, 4)
    norm = rms(320) if normed else None
    residual = normal(4, tokens, 1, 13 if glu else 26) if added else None
    got = light(x, w, norm, residual, glu=glu)
    assert got.shape == (tokens, 1, 13 if glu else 26)
    assert relative_error(got, float64(x, w, norm, residual, glu=glu)) < 2e-6


@pytest.mark.parametrize("out", [1, 5])
def test_fewer_rows_than_a_simd_group_has(out):
    x, w = normal(3, 1, 1, 512), packed(out, 512, 64, 4)
    got = light(x, w)
    assert got.shape == (1, 1, out)
    assert relative_error(got, float64(x, w)) < 2e-6


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_the_product_is_rounded_before_the_residual_is_added(dtype):
    x, w = normal(3, 2, 512, dtype=dtype), packed(36, 512, 64, 4, dtype)
    norm, residual = rms(512, dtype), 3 * normal(4, 2, 36, dtype=dtype)
    product = light(x, w, norm)
    assert product.dtype == dtype
    assert relative_error(product, float64(norm(x), w)) < 1e-2
    assert mx.array_equal(light(x, w, norm, residual), residual + product)


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
def test_order_and_contraction_do_not_matter():
    x, w, norm = normal(3, 3, 1088), packed(10, 1088, 64, 4), rms(1088)
    got = light(x, w, norm, glu=True)
    assert relative_error(got, float64(x, w, norm, glu=True)) < 2e-6
    assert mx.array_equal(got, each(x, w, norm, glu=True))
