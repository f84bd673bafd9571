"""The three kernels of a sparse MoE layer against float64."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels.experts import (
    ExpertWeights,
    experts_reference,
    route,
    route_and_run_experts,
    route_reference,
    run_experts,
)
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import (
    MAX_SIMD_GROUPS,
    Quantization,
    QuantizedWeight,
    chunk_values,
)
from qwen35_mlx.kernels.row_format import Matrix, dense
from tests.kernels.cases import relative_error

pytestmark = pytest.mark.usefixtures("kernels")


def normal(seed: int, *shape: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def by_expert(weights: mx.array, experts: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Weights and indices, each row sorted by index; the shared expert's weight stays last."""
    w, e = np.array(weights), np.array(experts)
    order = np.argsort(e, axis=1)
    routed = np.take_along_axis(w[:, :-1], order, axis=1)
    return np.concatenate([routed, w[:, -1:]], axis=1), np.take_along_axis(e, order, axis=1)


@pytest.mark.parametrize("route_", [route, route_reference])
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"),
    [(1, 8, 2), (3, 40, 8), (8, 256, 8), (2, 512, 10), (2, 4, 4), (1, 70, 31)],
)
def test_route_takes_the_likeliest_and_renormalises(route_, tokens, experts, top_k):
    logits = 3 * normal(0, tokens, experts + 1)
    weights, chosen = by_expert(*route_(logits, top_k))
    for row, logit in enumerate(np.array(logits, np.float64)):
        best = np.sort(np.argsort(-logit[:-1], kind="stable")[:top_k])
        np.testing.assert_array_equal(chosen[row], best)
        e = np.exp(logit[best] - logit[best].max())
        np.testing.assert_allclose(weights[row, :-1], e / e.sum(), rtol=1e-6)
        np.testing.assert_allclose(weights[row, -1], 1 / (1 + np.exp(-logit[-1])), rtol=1e-6)


def test_route_returns_experts_in_ascending_order():
    _, chosen = route(normal(0, 4, 71), 9)
    assert (np.diff(np.array(chosen).astype(int)) > 0).all()


def test_route_prefers_the_lower_index_of_equal_logits():
    logits = mx.zeros((1, 41))
    weights, chosen = route(logits, 3)
    assert chosen.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(np.array(weights), [[1 / 3, 1 / 3, 1 / 3, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("route_", [route, route_reference])
@pytest.mark.parametrize("shift", [1000, -1000])
def test_route_of_logits_whose_exponentials_are_no_floats(route_, shift):
    logits = mx.round(3 * normal(0, 2, 41)) + mx.where(mx.arange(41) < 40, shift, 0)
    weights, chosen = by_expert(*route_(logits, 3))
    routed = np.take_along_axis(np.array(logits, np.float64), chosen.astype(np.int64), axis=1)
    e = np.exp(routed - routed.max(1, keepdims=True))
    np.testing.assert_allclose(weights[:, :-1], e / e.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_route_of_nan_and_inf_returns_valid_indices(bad):
    logits = mx.where(mx.arange(41) < 39, bad, normal(1, 2, 41))
    weights, chosen = route(logits, 3)
    assert np.array(chosen).max() < 40
    if bad != bad:
        weights, chosen = route(mx.full((1, 41), bad), 3)
        assert np.array(chosen).max() < 40
        assert np.isnan(np.array(weights)).all()


# A quantisation with the dtype of its scales, or the dtype of a matrix that is not quantised.
Form = tuple[Quantization, mx.Dtype] | mx.Dtype


def draw_mixed(experts, hidden, inner, shared, top_k, forms: list[Form]) -> ExpertWeights:
    """Each matrix in a format of its own, in the order of the attributes."""
    shapes = [
        (experts, 2 * inner, hidden),
        (experts, hidden, inner),
        (2 * shared, hidden),
        (hidden, shared),
    ]

    def matrix(seed: int, shape: tuple[int, ...], form: Form) -> Matrix:
        w = normal(seed, *shape) * shape[-1] ** -0.5
        if isinstance(form, mx.Dtype):
            return w.astype(form)
        return QuantizedWeight.quantized(w.astype(form[1]), form[0])

    matrices = map(matrix, (1, 2, 3, 4), shapes, forms)
    weights = ExpertWeights.from_matrices(*matrices, top_k=top_k)
    assert weights is not None
    return weights


def draw(experts, hidden, inner, shared, top_k, group, bits, dtype) -> ExpertWeights:
    form = Quantization(group, bits), dtype
    return draw_mixed(experts, hidden, inner, shared, top_k, 4 * [form])


def norm_of(hidden: int, dtype: mx.Dtype) -> RMSNorm:
    return RMSNorm((1 + 0.2 * normal(8, hidden)).astype(dtype), 1e-6)


def exact(w: Matrix) -> mx.array:
    """The plain matrix in float32: MLX rounds it to the dtype of the scales."""
    if isinstance(w, QuantizedWeight) and w.biases is not None:
        scales, biases = (array.astype(mx.float32) for array in (w.scales, w.biases))
        w = replace(w, scales=scales, biases=biases)
    return dense(w, mx.float32)


def float64_experts(
    x: mx.array,
    norm: RMSNorm,
    weights: mx.array,
    experts: mx.array,
    layer: ExpertWeights,
    residual: mx.array,
) -> np.ndarray:
    gate_up, down, shared_gate_up, shared_down = (
        np.array(exact(w), np.float64)
        for w in (layer.gate_up, layer.down, layer.shared_gate_up, layer.shared_down)
    )

    def glu(x: np.ndarray, gate_up: np.ndarray, down: np.ndarray) -> np.ndarray:
        gate, up = np.split(gate_up @ x, 2)
        return down @ (gate / (1 + np.exp(-gate)) * up)

    rows = np.array(x.astype(mx.float32), np.float64)
    rows = rows / np.sqrt((rows * rows).mean(-1, keepdims=True) + norm.eps)
    rows = rows * np.array(norm.weight.astype(mx.float32), np.float64)
    w, e = np.array(weights, np.float64), np.array(experts)
    return np.array(residual.astype(mx.float32), np.float64) + np.stack(
        [
            w[n, -1] * glu(row, shared_gate_up, shared_down)
            + sum(w[n, i] * glu(row, gate_up[j], down[j]) for i, j in enumerate(e[n]))
            for n, row in enumerate(rows)
        ]
    )


def check(
    run,
    layer: ExpertWeights,
    tokens: int,
    tolerance: float,
    scale: float = 1.0,
    dtype: mx.Dtype | None = None,
    norm_dtype: mx.Dtype | None = None,
) -> None:
    """An implementation against float64, on inputs of the layer's sizes.

    Args:
        dtype, norm_dtype: of the inputs and of the norm; None for that of the layer's scales.
    """
    sizes = layer.constants
    if dtype is None:
        dtype = layer.down.scales.dtype if isinstance(layer.down, QuantizedWeight) else mx.float32
    x = (scale * normal(5, tokens, sizes["H"])).astype(dtype)
    norm, residual = norm_of(sizes["H"], norm_dtype or dtype), normal(7, tokens, sizes["H"])
    residual = residual.astype(dtype)
    weights, experts = route_reference(normal(6, tokens, sizes["E"] + 1), sizes["K"])
    got = run(x, norm, weights, experts, layer, residual)
    want = float64_experts(x, norm, weights, experts, layer, residual)
    assert got.dtype == dtype
    assert relative_error(got, want) < tolerance


@pytest.fixture(params=[run_experts, experts_reference])
def implementation(request):
    return request.param


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize(
    ("group", "bits"), [(32, 2), (32, 3), (32, 4), (64, 4), (64, 5), (128, 6), (64, 8), (128, 8)]
)
def test_experts_in_every_format(implementation, tokens, group, bits):
    check(implementation, draw(8, 128, 128, 128, 3, group, bits, mx.float32), tokens, 2e-6)


def affine(group: int, bits: int, dtype: mx.Dtype = mx.float32) -> Form:
    return Quantization(group, bits), dtype


MXFP4, MXFP8, NVFP4 = (
    (Quantization(group, bits, mode), mx.float32)
    for group, bits, mode in ((32, 4, "mxfp4"), (32, 8, "mxfp8"), (16, 4, "nvfp4"))
)
MIXTURES: dict[str, list[Form]] = {
    "more bits": [affine(32, 4), affine(64, 6), affine(64, 8), affine(32, 8)],
    "other groups": [affine(32, 4), affine(64, 4), affine(128, 4), affine(32, 4)],
    "other scales": [affine(64, 4), affine(64, 4), *2 * [affine(64, 4, mx.bfloat16)]],
    "floats": [MXFP8, MXFP4, NVFP4, MXFP8],
    "not quantised": [affine(64, 2), mx.bfloat16, mx.float16, mx.float32],
}


@pytest.mark.parametrize("forms", MIXTURES.values(), ids=MIXTURES)
def test_each_matrix_has_a_format_of_its_own(forms):
    layer = draw_mixed(4, 128, 64, 128, 2, forms)
    check(run_experts, layer, 2, 2e-6, dtype=mx.float32)


@pytest.mark.parametrize("forms", [4 * [NVFP4], 4 * [mx.float32]], ids=["nvfp4", "float32"])
def test_one_format_that_is_not_affine(forms):
    check(run_experts, draw_mixed(4, 128, 64, 64, 2, forms), 2, 2e-6, dtype=mx.float32)


def test_a_shared_expert_whose_rows_need_more_rounds():
    """A SIMD group reads 1,088 values of 4 bits in two rounds, and of 16 bits in five."""
    forms = [affine(32, 4), affine(32, 4), mx.bfloat16, mx.bfloat16]
    check(run_experts, draw_mixed(2, 1088, 32, 96, 1, forms), 1, 2e-6, dtype=mx.float32)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision(implementation, dtype):
    check(implementation, draw(4, 128, 64, 64, 2, 64, 4, dtype), 2, 1e-2)


@pytest.mark.parametrize(
    ("scales", "weight"), [(mx.float16, mx.bfloat16), (mx.float32, mx.float32)], ids=str
)
def test_scales_and_norms_of_other_dtypes(implementation, scales, weight):
    layer = draw(4, 128, 64, 64, 2, 64, 4, scales)
    check(implementation, layer, 2, 1e-2, dtype=mx.bfloat16, norm_dtype=weight)


def test_a_norm_in_float32_is_not_rounded():
    """Its weights would become 1 in bfloat16; some of the normed x then round differently."""
    layer = draw(4, 128, 64, 64, 2, 64, 8, mx.float32)
    x = normal(5, 1, 128).astype(mx.bfloat16)
    norm = RMSNorm(mx.full((128,), 1 + 2**-9 + 2**-16), 1e-6)
    rounded = RMSNorm(norm.weight.astype(mx.bfloat16), norm.eps)
    weights, experts = route_reference(normal(6, 1, 5), 2)
    rest = (weights, experts, layer, mx.zeros_like(x))
    got = run_experts(x, norm, *rest)
    assert relative_error(got, float64_experts(x, norm, *rest)) < 1e-2
    assert not mx.array_equal(got, run_experts(x, rounded, *rest))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_the_sum_is_rounded_before_the_residual_is_added(implementation, dtype):
    layer = draw(4, 128, 64, 64, 2, 64, 4, dtype)
    x, residual = normal(5, 2, 128).astype(dtype), (3 * normal(7, 2, 128)).astype(dtype)
    routed = route_reference(normal(6, 2, 5), 2)
    alone = implementation(x, norm_of(128, dtype), *routed, layer, mx.zeros_like(residual))
    got = implementation(x, norm_of(128, dtype), *routed, layer, residual)
    assert mx.array_equal(got, residual + alone)


@pytest.mark.parametrize("bits", [4, 5])
@pytest.mark.parametrize("experts", [3, 40], ids=["common", "mostly different"])
def test_tokens_of_one_pass_equal_single_ones_to_the_bit(experts, bits):
    """Both where tokens share experts and where they hardly do."""
    layer = draw(experts, 96, 32, 96, 2, 32, bits, mx.float32)
    x, norm, residual = normal(5, 7, 96), norm_of(96, mx.float32), normal(7, 7, 96)
    logits = normal(6, 7, experts + 1)

    def block(rows: slice) -> mx.array:
        return run_experts(x[rows], norm, *route(logits[rows], 2), layer, residual[rows])

    together = block(slice(0, 7))
    for t in range(7):
        assert mx.array_equal(together[t : t + 1], block(slice(t, t + 1))).item(), t


def test_widths_that_do_not_divide_into_threadgroups():
    check(run_experts, draw(3, 96, 32, 96, 2, 32, 4, mx.float32), 3, 2e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_rows_of_several_simd_groups_and_rounds(bits):
    """Rows of x, and the rows of all experts together, longer than all threads load at once."""
    run = chunk_values(bits)
    threads = 32 * MAX_SIMD_GROUPS
    wide = draw(2, run * (threads + 2), 64, 64, 1, 32, bits, mx.float32)
    check(run_experts, wide, 1, 2e-6)
    many = draw(4, 64, run * threads // 2, 64, 3, 32, bits, mx.float32)
    check(run_experts, many, 1, 2e-6)


def test_inputs_near_zero_keep_their_precision():
    check(run_experts, draw(3, 64, 32, 32, 2, 32, 4, mx.float32), 2, 2e-6, scale=1e-4)


def test_unsupported_formats_are_left_to_the_reference():
    layer = draw(3, 64, 64, 64, 2, 64, 4, mx.float32)
    four = (layer.gate_up, layer.down, layer.shared_gate_up, layer.shared_down)
    assert ExpertWeights.from_matrices(*four, top_k=2) is not None
    # One lane more has the weight of the shared expert.
    assert ExpertWeights.from_matrices(*four, top_k=31) is not None
    assert ExpertWeights.from_matrices(*four, top_k=32) is None
    assert ExpertWeights.from_matrices(*four[:3], None, top_k=2) is None
    one = QuantizedWeight.quantized(mx.zeros((64, 64)), Quantization(64, 1))
    assert ExpertWeights.from_matrices(*four[:3], one, top_k=2) is None
    # One pointer type serves scales and biases.
    half = replace(four[3], biases=dense(four[3], mx.bfloat16)[:, :1])
    assert ExpertWeights.from_matrices(*four[:3], half, top_k=2) is None


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize(
    "forms", [4 * [affine(64, 4)], MIXTURES["more bits"]], ids=["one", "mixed"]
)
def test_two_dispatches_give_the_bits_of_three(forms, tokens):
    layer = draw_mixed(40, 128, 64, 128, 5, forms)
    x, residual, norm = normal(5, tokens, 128), normal(7, tokens, 128), norm_of(128, mx.float32)
    logits = 3 * normal(9, tokens, 41)
    got = route_and_run_experts(x, norm, logits, layer, residual)
    want = run_experts(x, norm, *route(logits, 5), layer, residual)
    np.testing.assert_array_equal(np.array(got), np.array(want))


def test_two_dispatches_of_nan_logits_stay_within_the_stacks():
    layer = draw(8, 128, 64, 64, 3, 64, 4, mx.float32)
    logits = mx.full((1, 9), float("nan"))
    x, norm = normal(5, 1, 128), norm_of(128, mx.float32)
    assert np.isnan(np.array(route_and_run_experts(x, norm, logits, layer, x))).all()
