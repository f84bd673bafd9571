"""RMS norm and rotation of queries and keys, in plain MLX and as a kernel, against float64."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import gpu_kernel, qk_norm_rope
from qwen35_mlx.kernels.qk_norm_rope import (
    KERNEL,
    AttentionParameters,
    Rope,
)
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, KernelSelection
from tests.kernels.cases import relative_error
from tests.metal_emulator import MACHINES, emulated

pytestmark = pytest.mark.usefixtures("kernels")


def reference(
    projected: mx.array, offset: int | mx.array, layer: AttentionParameters
) -> tuple[mx.array, ...]:
    """q, k and v. On the CPU: MLX's sines on Metal are fast and not this exact."""
    with mx.stream(mx.cpu):
        q, kv = qk_norm_rope.reference(projected, offset, layer)
        return q, kv[0], kv[1]


def kernel(
    projected: mx.array, offset: int | mx.array, layer: AttentionParameters
) -> tuple[mx.array, ...]:
    """q, k and v."""
    q, kv = qk_norm_rope.kernel(projected, offset, layer)
    return q, kv[0], kv[1]


IMPLEMENTATIONS = [kernel, reference]
PUBLISHED = (256, 64)
# head_dim and rotated dimensions: pairs within a lane, pairs whose lanes no power of two separates,
# more pairs than lanes, and the widths of small models.
SIZES = [PUBLISHED, (64, 16), (128, 128), (64, 24), (96, 80), (32, 8)]
FAR = 262_000


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes as in `qk_norm_rope`; `norms` is the dtype of both norms' weights."""

    tokens: int = 1
    batch: int = 1
    heads: tuple[int, int] = (2, 2)
    size: tuple[int, int] = (64, 16)
    dtype: mx.Dtype = mx.float32
    norms: mx.Dtype = mx.float32
    magnitude: float = 1.0

    def draw(self) -> tuple[mx.array, AttentionParameters]:
        rng = np.random.default_rng(self.tokens * self.batch)
        (heads, kv_heads), (dim, rotary) = self.heads, self.size
        width = 2 * (heads + kv_heads) * dim
        wavelengths = 1e7 ** (np.arange(0, rotary, 2) / rotary)
        layer = AttentionParameters(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dim,
            q_norm=mx.array(1 + 0.5 * rng.standard_normal(dim), self.norms),
            k_norm=mx.array(1 + 0.5 * rng.standard_normal(dim), self.norms),
            eps=1e-6,
            rope=Rope(mx.array(wavelengths.astype(np.float32)), self.magnitude),
        )
        drawn = rng.standard_normal((self.batch, self.tokens, width))
        return mx.array(3 * drawn, self.dtype), layer


def float64(
    projected: mx.array, offset: int, layer: AttentionParameters, *, rounded_angle: bool = True
) -> tuple[np.ndarray, ...]:
    """q, k and v, one head at a time.

    Args:
        rounded_angle: compute the angle in float32, from position and wavelength.
    """

    def wide(x: mx.array) -> np.ndarray:
        return np.array(x.astype(mx.float32), np.float64)

    dim, pairs = layer.head_dim, layer.rope.dims // 2
    batch, tokens, _ = projected.shape
    wavelengths = np.array(layer.rope.wavelengths)
    if not rounded_angle:
        wavelengths = wavelengths.astype(np.float64)

    def head(x: np.ndarray, weight: mx.array, position: int) -> np.ndarray:
        x = x / np.sqrt((x * x).mean() + layer.eps) * wide(weight)
        angle = wavelengths.dtype.type(position) * (1 / wavelengths)
        cosine, sine = np.cos(angle.astype(np.float64)), np.sin(angle.astype(np.float64))
        a, b = layer.rope.magnitude * x[:pairs], layer.rope.magnitude * x[pairs : 2 * pairs]
        return np.concatenate([a * cosine - b * sine, a * sine + b * cosine, x[2 * pairs :]])

    q = np.empty((batch, layer.heads, tokens, dim))
    k = np.empty((batch, layer.kv_heads, tokens, dim))
    rows, keys = wide(projected), 2 * layer.heads * dim
    for b, t in np.ndindex(batch, tokens):
        for h in range(layer.heads):
            start = 2 * h * dim
            q[b, h, t] = head(rows[b, t, start : start + dim], layer.q_norm, offset + t)
        for h in range(layer.kv_heads):
            start = keys + h * dim
            k[b, h, t] = head(rows[b, t, start : start + dim], layer.k_norm, offset + t)
    v = rows[..., keys + layer.kv_heads * dim :].reshape(batch, tokens, layer.kv_heads, dim)
    return q, k, v.swapaxes(1, 2)


def check(compute, case: Case, offset: int, tolerance: float = 2e-6, **options) -> None:
    projected, layer = case.draw()
    got, want = compute(projected, offset, layer), float64(projected, offset, layer, **options)
    for x, y in zip(got, want, strict=True):
        assert (x.dtype, x.shape) == (case.dtype, y.shape)
        assert relative_error(x, y) < tolerance


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_around_a_simd_group(compute, size):
    check(compute, Case(3, size=size), 5)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("heads", [(24, 4), (16, 2), (16, 4), (8, 2), (2, 2)], ids=str)
def test_heads_of_published_size(compute, heads):
    check(compute, Case(2, heads=heads, size=PUBLISHED), 1)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 3, MAX_DECODE_TOKENS])
def test_tokens_of_a_batch(compute, tokens, batch):
    check(compute, Case(tokens, batch, heads=(4, 2)), 77)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("offset", [0, 1, 8191, FAR])
def test_near_and_far_positions(compute, offset):
    check(compute, Case(2, size=PUBLISHED), offset)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_angles_near_the_start_are_the_exact_ones(compute, offset):
    check(compute, Case(1, size=PUBLISHED), offset, rounded_angle=False)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("norms", ["same", "float32"])
def test_half_precision(compute, dtype, norms):
    case = Case(3, 2, size=PUBLISHED, dtype=dtype, norms=dtype if norms == "same" else mx.float32)
    for offset in (0, 8191, FAR):
        check(compute, case, offset, 1e-2)


def test_a_head_is_rounded_between_its_norm_and_its_rotation():
    projected, layer = Case(3, size=(64, 64), dtype=mx.bfloat16).draw()
    # At position 0 nothing rotates: the result is that of the norm.
    q, k, v = (x[:, :, :1] for x in kernel(projected, 0, layer))
    with mx.stream(mx.cpu):
        want = [layer.rope(x.astype(mx.float32), 9).astype(mx.bfloat16) for x in (q, k)] + [v]
    for x, y in zip(kernel(projected[:, :1], 9, layer), want, strict=True):
        # The float32 before the last rounding may differ in its last digit.
        assert mx.mean(x == y).item() > 0.95


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_yarn_magnitude_scales_the_rotated_dimensions(compute, dtype):
    tolerance = 2e-6 if dtype == mx.float32 else 1e-2
    check(compute, Case(2, size=PUBLISHED, dtype=dtype, magnitude=1.1386), 4000, tolerance)


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
def test_a_magnitude_is_not_rounded_to_half_precision(compute):
    """Rounding errors of single values average out; the magnitude's, of 0.18%, would not."""
    projected, layer = Case(8, 3, size=(64, 64), dtype=mx.bfloat16, magnitude=1.1386).draw()
    (got, *_), (want, *_) = compute(projected, 50, layer), float64(projected, 50, layer)
    wide = np.array(got.astype(mx.float32), np.float64)
    assert abs((wide * want).sum() / (want * want).sum() - 1) < 5e-4


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("offset", [0, 1, 8191, FAR])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_kernel_agrees_with_the_reference(size, offset, dtype):
    projected, layer = Case(2, size=size, dtype=dtype, magnitude=0.9).draw()
    tolerance = 2e-6 if dtype == mx.float32 else 2e-2
    want = reference(projected, offset, layer)
    for x, y in zip(kernel(projected, offset, layer), want, strict=True):
        assert relative_error(x, np.array(y.astype(mx.float32), np.float64)) < tolerance


def test_heads_near_zero_keep_their_precision():
    projected, layer = Case(1).draw()
    projected = 1e-4 * projected
    for x, y in zip(kernel(projected, 3, layer), float64(projected, 3, layer), strict=True):
        assert relative_error(x, y) < 2e-6


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_machine_within_tolerance(monkeypatch, machine):
    if mx.default_device() != mx.cpu:
        pytest.skip("machines vary in the emulator only")

    def make_launcher(kernel: gpu_kernel.Kernel) -> gpu_kernel.Launcher:
        names = {"input_names": list(kernel.inputs), "output_names": list(kernel.outputs)}
        return emulated(name=kernel.name, source=kernel.text, machine=machine, **names)

    monkeypatch.setattr(gpu_kernel, "make_launcher", make_launcher)
    for size in SIZES:
        check(kernel, Case(3, 2, size=size, magnitude=1.1386), 8191)
    check(kernel, Case(3, 2, dtype=mx.bfloat16), 8191, 1e-2)


@pytest.mark.parametrize("tokens", [1, MAX_DECODE_TOKENS, MAX_DECODE_TOKENS + 1])
def test_the_selected_variant_runs_for_a_few_tokens(tokens, monkeypatch):
    called = []
    for name in ("kernel", "reference"):
        monkeypatch.setattr(qk_norm_rope, name, lambda *_, name=name: called.append(name))
    projected, layer = Case(tokens).draw()
    for variant in (KernelSelection().qk_norm_rope, KERNEL):
        selection = replace(KernelSelection(), qk_norm_rope=variant)
        qk_norm_rope.qk_norm_rope(projected, 0, layer, selection)
    assert called == ["reference", "kernel" if tokens <= MAX_DECODE_TOKENS else "reference"]


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
def test_the_offset_is_a_number_or_an_array(compute):
    projected, layer = Case(2).draw()
    numbers, arrays = compute(projected, 6, layer), compute(projected, mx.array(6, mx.int32), layer)
    assert all(mx.array_equal(x, y) for x, y in zip(numbers, arrays, strict=True))


@pytest.mark.parametrize("compute", IMPLEMENTATIONS)
@pytest.mark.parametrize("offsets", [[7], [0, FAR, 33], [*range(100, 109)]])
def test_each_row_has_a_position_of_its_own(compute, offsets):
    projected, layer = Case(tokens=2, batch=len(offsets)).draw()
    got = compute(projected, mx.array(offsets, mx.int32), layer)
    for row, offset in enumerate(offsets):
        want = float64(projected[row : row + 1], offset, layer)
        for x, y in zip(got, want, strict=True):
            assert relative_error(x[row : row + 1], y) < 2e-6
