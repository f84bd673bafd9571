"""The features that kernel bodies use work as Metal and MLX define them."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.metal_emulator import EmulatorError, Machine, OutOfBoundsError, build, emulated
from tests.metal_emulator.cases import needs_emulator, run
from tests.metal_emulator.text import record

pytestmark = needs_emulator

RNG = np.random.default_rng(3)
FLOATS = RNG.standard_normal(32).astype(np.float32)


def test_ragged_grid_in_three_dimensions():
    grid, group = (7, 5, 3), (4, 2, 2)
    source = """
    uint3 p = thread_position_in_grid;
    uint i = (p.z * threads_per_grid.y + p.y) * threads_per_grid.x + p.x;
    uint3 q = threadgroup_position_in_grid * dispatch_threads_per_threadgroup
        + thread_position_in_threadgroup;
    same[i] = metal::abs(int(p.x - q.x)) + metal::abs(int(p.y - q.y)) + metal::abs(int(p.z - q.z));
    uint3 n = threads_per_threadgroup;
    size[i] = n.x * n.y * n.z;
    """
    outputs = {"same": (grid[::-1], mx.int32), "size": (grid[::-1], mx.uint32)}
    same, size = run(source, outputs=outputs, grid=grid, threadgroup=group)
    assert not mx.any(same).item()
    x, y, z = ([min(m, n - i // m * m) for i in range(n)] for n, m in zip(grid, group, strict=True))
    want = np.array(z)[:, None, None] * np.array(y)[:, None] * np.array(x)
    np.testing.assert_array_equal(np.array(size), want)


def test_threadgroup_larger_than_the_grid_is_cut():
    source = "y[thread_position_in_grid.x] = threads_per_threadgroup.x;"
    (y,) = run(source, outputs={"y": ((5,), mx.uint32)}, grid=(5, 1, 1), threadgroup=(256, 1, 1))
    assert y.tolist() == [5] * 5


def test_positions_in_simd_groups():
    source = """
    uint i = thread_index_in_threadgroup;
    y[i] = 100 * simdgroup_index_in_threadgroup + thread_index_in_simdgroup;
    """
    outputs = {"y": ((96,), mx.uint32)}
    (y,) = run(source, outputs=outputs, grid=(8, 12, 1), threadgroup=(8, 12, 1))
    assert y.tolist() == [100 * (i // 32) + i % 32 for i in range(96)]


def test_template_values_and_discarded_branches():
    source = """
    uint i = thread_position_in_grid.x;
    if constexpr (Twice) { y[i] = static_cast<T>(x[i] * 2.0f * N); }
    else { static_assert(Twice || N < 0, "discarded"); }
    """
    template = [("T", mx.float16), ("N", 3), ("Twice", True)]
    outputs = {"y": ((32,), mx.float16)}
    (y,) = run(source, {"x": FLOATS}, outputs, template=template)
    np.testing.assert_array_equal(np.array(y), (FLOATS * 6).astype(np.float16))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["half", "bfloat"])
def test_every_operation_rounds_to_its_type(dtype):
    x, y, z = (mx.array(RNG.standard_normal(4096)).astype(dtype) for _ in range(3))
    source = "uint i = thread_position_in_grid.x; r[i] = x[i] * y[i] + z[i] / x[i] - y[i];"
    (got,) = run(
        source,
        {"x": x, "y": y, "z": z},
        {"r": ((4096,), dtype)},
        grid=(4096, 1, 1),
        machine=Machine(contract=False),
    )
    assert mx.array_equal(got, x * y + z / x - y).item()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["half", "bfloat"])
def test_rounding_from_float_is_to_nearest_even(dtype):
    # Ties in both directions, subnormals, overflow, infinities and random bits.
    edges = np.array([0x3F808000, 0x3F818000, 0x00018000, 0x7F7FFFFF, 0x7F800000, 0x80000001,
                      0x33000000, 0x33000001, 0x477FF000], np.uint32)  # fmt: skip
    bits = np.concatenate([edges, RNG.integers(0, 2**32, 2048 - edges.size, np.uint32)])
    x = mx.array(bits).view(mx.float32)
    source = "uint i = thread_position_in_grid.x; y[i] = static_cast<T>(x[i]);"
    (y,) = run(
        source,
        {"x": x},
        {"y": ((2048,), dtype)},
        grid=(2048, 1, 1),
        template=[("T", dtype)],
        machine=Machine(flush=False),
    )
    numbers = ~mx.isnan(x)
    same = y.view(mx.uint16) == x.astype(dtype).view(mx.uint16)
    assert mx.all(mx.where(numbers, same, mx.isnan(y))).item()


@pytest.mark.parametrize(("size", "space"), [(7, "constant"), (8, "device")])
def test_small_inputs_are_constant(size, space):
    source = f"const {space} float* p = x; y[thread_position_in_grid.x] = p[{size - 1}];"
    (y,) = run(source, {"x": mx.arange(size).astype(mx.float32)})
    assert y.tolist() == [size - 1] * 32


def test_scalars_shapes_and_strides():
    source = "y[thread_position_in_grid.x] = n + x_shape[1] + 10 * x_strides[0] + 100 * x_ndim;"
    (y,) = run(source, {"n": 5, "x": mx.zeros((3, 4, 2))}, {"y": ((32,), mx.int32)})
    assert y.tolist() == [5 + 4 + 80 + 300] * 32


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_inputs_arrive_row_contiguous(dtype):
    x = mx.arange(64).reshape(8, 8).astype(dtype).T[::2]
    source = "uint i = thread_position_in_grid.x; y[i] = x[i];"
    (y,) = run(source, {"x": x}, {"y": ((4, 8), dtype)})
    assert mx.array_equal(x, y).item()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_inputs_keep_their_strides_if_they_need_not_be_contiguous(dtype):
    x = mx.arange(60).reshape(3, 5, 4).astype(dtype)[:, 1:3]
    source = """
    uint i = thread_position_in_grid.x;
    y[i] = x[i / 8 * x_strides[0] + i / 4 % 2 * x_strides[1] + i % 4];
    z[i] = x[i / 4 % 2 == 1 && i < 20 ? i / 8 * x_strides[0] + 8 + i % 4 : 0];
    """
    outputs = {"y": (x.shape, dtype), "z": (x.shape, dtype)}
    y, z = run(source, {"x": x}, outputs, grid=(24, 1, 1), threadgroup=(24, 1, 1), contiguous=False)
    assert mx.array_equal(x, y).item()
    assert mx.isnan(z[0, 1]).all().item()  # the gaps are NaN
    with pytest.raises(OutOfBoundsError):
        run(source.replace("[0] +", "[0] + 8 +", 1), {"x": x}, outputs, contiguous=False)


@pytest.mark.parametrize("dtype", [mx.bool_, mx.uint8, mx.int8, mx.int16, mx.uint32, mx.int64])
def test_integer_types(dtype):
    x = mx.array(RNG.integers(0, 120, 32)).astype(dtype)
    source = "uint i = thread_position_in_grid.x; y[i] = x[i]; z[i] = static_cast<float>(x[i]);"
    y, z = run(source, {"x": x}, {"y": ((32,), dtype), "z": ((32,), mx.float32)})
    assert mx.array_equal(x, y).item()
    assert mx.array_equal(x.astype(mx.float32), z).item()


@pytest.mark.parametrize("threads", [32, 20], ids=["full", "ragged"])
def test_simd_operations(threads):
    source = """
    uint i = thread_position_in_grid.x;
    y[i] = simd_sum(x[i]);
    y[i + N] = simd_max(x[i]);
    y[i + 2 * N] = simd_broadcast(x[i], 3);
    y[i + 3 * N] = simd_shuffle_xor(x[i], 1);
    """
    x = RNG.integers(-50, 50, threads).astype(np.float32)
    outputs = {"y": ((4, threads), mx.float32)}
    (y,) = run(source, {"x": x}, outputs, grid=(threads, 1, 1), template=[("N", threads)])
    want = [np.full_like(x, n) for n in (x.sum(), x.max(), x[3])]
    np.testing.assert_array_equal(np.array(y), [*want, x[np.arange(threads) ^ 1]])


def test_simd_groups_are_separate():
    source = "uint i = thread_position_in_grid.x; y[i] = simd_sum(x[i]) + simd_sum(1);"
    x = RNG.integers(-50, 50, 256)
    inputs, outputs = {"x": x.astype(np.int32)}, {"y": ((256,), mx.int32)}
    (y,) = run(source, inputs, outputs, grid=(256, 1, 1), threadgroup=(128, 1, 1))
    np.testing.assert_array_equal(np.array(y), x.reshape(8, 32).sum(1).repeat(32) + 32)


def test_simd_operations_on_vectors_and_half():
    source = """
    uint i = thread_position_in_grid.x;
    float2 v = simd_sum(float2(x[i], 1.0f));
    half h = simd_max(static_cast<half>(x[i]));
    y[i] = v.x + v.y + static_cast<float>(h);
    """
    x = RNG.integers(-50, 50, 32).astype(np.float32)
    assert run(source, {"x": x})[0].tolist() == [x.sum() + 32 + x.max()] * 32


def test_sum_over_1024_threads_through_threadgroup_memory():
    source = """
    threadgroup float partial[32];
    uint i = thread_index_in_threadgroup;
    for (int row = 0; row < 3; ++row) {
      float v = simd_sum(x[row * 1024 + i]);
      if (thread_index_in_simdgroup == 0) partial[simdgroup_index_in_threadgroup] = v;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      float total = simd_sum(partial[thread_index_in_simdgroup]);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      y[row * 1024 + i] = total;
    }
    """
    x = RNG.integers(-50, 50, (3, 1024)).astype(np.float32)
    outputs = {"y": (x.shape, mx.float32)}
    (y,) = run(source, {"x": x}, outputs, grid=(1024, 1, 1), threadgroup=(1024, 1, 1))
    np.testing.assert_array_equal(np.array(y), x.sum(1, keepdims=True).repeat(1024, 1))


def test_threadgroup_memory_of_any_shape():
    source = """
    threadgroup T tile[4][N + 1];
    threadgroup uint first;
    uint3 p = thread_position_in_threadgroup;
    if (p.x == 0 && p.y == 0) first = 7;
    tile[p.y][p.x] = x[p.y * N + p.x];
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
    threadgroup T* row = tile[3 - p.y];
    y[p.y * N + p.x] = row[N - 1 - p.x] + static_cast<T>(first);
    """
    x = RNG.integers(0, 50, (4, 8)).astype(np.float32)
    (y,) = run(
        source,
        {"x": x},
        {"y": ((4, 8), mx.float32)},
        grid=(8, 4, 1),
        threadgroup=(8, 4, 1),
        template=[("T", mx.float32), ("N", 8)],
    )
    np.testing.assert_array_equal(np.array(y), x[::-1, ::-1] + 7)


def test_lanes_exchange_through_memory():
    source = """
    threadgroup float s[64];
    uint i = thread_index_in_threadgroup;
    float v = x[i];
    for (int step = 0; step < 3; ++step) {
      s[i] = v;
      simdgroup_barrier(mem_flags::mem_threadgroup);
      v = s[i ^ 5];
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    y[i] = v;
    """
    x = np.arange(64, dtype=np.float32)
    outputs = {"y": ((64,), mx.float32)}
    (y,) = run(source, {"x": x}, outputs, grid=(64, 1, 1), threadgroup=(64, 1, 1))
    np.testing.assert_array_equal(np.array(y), x[np.arange(64) ^ 5])


def test_lanes_may_write_the_same_value_to_one_element():
    assert run("y[0] = 4.0f;", outputs={"y": ((1,), mx.float32)})[0].tolist() == [4.0]


def test_vectors():
    source = """
    uint i = thread_position_in_grid.x;
    float4 v = *(device const float4*)(x + 4 * i);
    float4 w = float4(*(device const vec<T, 4>*)(h + 4 * i));
    float2 ends = float2(v.x, w.w) * 2.0f;
    *(device float4*)(y + 4 * i) = fma(v, w, float4(ends, ends.yx));
    d[i] = dot(v, w);
    """
    x = RNG.integers(-9, 9, (32, 4)).astype(np.float32)
    h = RNG.integers(-9, 9, (32, 4)).astype(np.float16)
    outputs = {"y": (x.shape, mx.float32), "d": ((32,), mx.float32)}
    y, d = run(source, {"x": x, "h": h}, outputs, template=[("T", mx.float16)])
    a, b = 2 * x[:, 0], 2 * h[:, 3].astype(np.float32)
    np.testing.assert_array_equal(np.array(y), x * h + np.stack([a, b, b, a], 1))
    np.testing.assert_array_equal(np.array(d), (x * h).sum(1))


def test_vectors_in_threadgroup_memory():
    source = """
    uint i = thread_position_in_threadgroup.x;
    threadgroup float4 shared[32];
    shared[i] = float4(i, 2 * i, 3 * i, 4 * i);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = shared[31 - i].z;
    """
    (y,) = run(source)
    np.testing.assert_array_equal(np.array(y), 3 * np.arange(31, -1, -1))


def test_packed_bits():
    # Four-bit weights: eight to a uint32, or two to a byte.
    source = """
    uint i = thread_position_in_grid.x;
    device const uint8_t* bytes = (device const uint8_t*)w;
    y[i] = (w[i / 8] >> (4 * (i % 8))) & 0xf;
    z[i] = (i & 1) ? bytes[i / 2] >> 4 : bytes[i / 2] & 0xf;
    b[i] = as_type<float>(as_type<uint>(1.5f));
    """
    w = RNG.integers(0, 2**32, 8, np.uint32)
    outputs = {"y": ((64,), mx.uint32), "z": ((64,), mx.uint32), "b": ((64,), mx.float32)}
    y, z, b = run(source, {"w": w}, outputs, grid=(64, 1, 1))
    want = (w[:, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).ravel()
    np.testing.assert_array_equal(np.array(y), want)
    np.testing.assert_array_equal(np.array(z), want)
    assert b.tolist() == [1.5] * 64


FUNCTIONS = {
    "metal::exp(x[i])": np.exp,
    "metal::precise::exp(-x[i])": lambda x: np.exp(-x),
    "metal::fast::exp2(x[i])": np.exp2,
    "metal::log(x[i])": np.log,
    "metal::rsqrt(x[i])": lambda x: x**-0.5,
    "metal::precise::sqrt(x[i])": np.sqrt,
    "log1p(x[i])": np.log1p,
    "log1p(0x1p-20f * x[i])": lambda x: np.log1p(2.0**-20 * x),
    "log1p(0x1p-30f * x[i])": lambda x: np.log1p(2.0**-30 * x),
    "metal::tanh(x[i])": np.tanh,
    "metal::fma(x[i], x[i], 1.0f)": lambda x: x * x + 1,
    "metal::clamp(x[i], 0.5f, metal::max(0.6f, 0.7f))": lambda x: x.clip(0.5, 0.7),
    "metal::select(0.0f, x[i], x[i] > 1.0f)": lambda x: np.where(x > 1, x, 0),
    "metal::floor(x[i]) + metal::pow(x[i], 1.5f)": lambda x: np.floor(x) + x**1.5,
    "metal::isnan(x[i]) ? INFINITY : -metal::abs(-x[i])": lambda x: -x,
}


@pytest.mark.parametrize("call", FUNCTIONS)
def test_functions(call):
    x = np.abs(FLOATS) + 0.01
    (y,) = run(f"uint i = thread_position_in_grid.x; y[i] = {call};", {"x": x})
    np.testing.assert_allclose(np.array(y), FUNCTIONS[call](x.astype(np.float64)), rtol=4e-7)


def test_helpers_in_the_header():
    header = """
    constant constexpr float table[2] = {1.0f, -1.0f};
    template <int N> inline float total(thread const float (&v)[N], device const float* w) {
      float sum = 0.0f;
      #pragma unroll
      for (int j = 0; j < N; ++j) sum += v[j] * w[j];
      return sum * table[1];
    }
    """
    source = """
    float local[3] = {1.0f, 2.0f, 3.0f};
    y[thread_position_in_grid.x] = total(local, x);
    """
    x = mx.arange(8).astype(mx.float32)
    assert run(source, {"x": x}, header=header)[0].tolist() == [-8.0] * 32


def test_init_value_fills_unwritten_elements():
    source = "uint i = thread_position_in_grid.x; if (i & 1) y[i] += 1.0f;"
    assert run(source, init_value=2.0)[0].tolist() == [2.0, 3.0] * 16


@pytest.mark.parametrize(("flush", "want"), [(True, 0.0), (False, 2.0**-130)])
def test_subnormals_are_flushed_or_kept(flush, want):
    source = "uint i = thread_position_in_grid.x; y[i] = x[i] * 0.0625f;"
    x = np.full(32, 2.0**-126, np.float32)
    assert run(source, {"x": x}, machine=Machine(flush=flush))[0].tolist() == [want] * 32


@pytest.mark.parametrize("contract", [True, False])
def test_products_and_sums_are_contracted_or_not(contract):
    source = "uint i = thread_position_in_grid.x; float p = x[i] * x[i]; y[i] = p - 1.0f;"
    x = np.full(32, 1 + 2.0**-12, np.float32)
    want = 2.0**-11 + contract * 2.0**-24
    assert run(source, {"x": x}, machine=Machine(contract=contract))[0].tolist() == [want] * 32


def test_empty_input_and_no_threads_reading_it():
    source = "uint i = thread_position_in_grid.x; y[i] = n[0] > 0 ? x[i] : 1.0f;"
    inputs = {"x": mx.zeros((0, 4)), "n": mx.array([0])}
    assert run(source, inputs)[0].tolist() == [1.0] * 32


def test_the_text_is_what_mlx_generates():
    metal_kernel: Any = mx.fast.metal_kernel
    kernel = metal_kernel(
        name="copy", input_names=["x"], output_names=["y"], header="// header\n", source="// body"
    )
    text = record(
        lambda x: kernel(
            inputs=[x],
            template=[("T", mx.float16)],
            grid=(9, 2, 1),
            threadgroup=(4, 1, 1),
            output_shapes=[x.shape],
            output_dtypes=[x.dtype],
        ),
        [mx.zeros(9)],
    )
    assert text.source.startswith("// header\ntemplate <typename T>\n[[kernel]] void custom_")
    assert "  const device float* x [[buffer(0)]]" in text.source
    assert "// body" in text.source
    assert (text.grid, text.threadgroup) == ((9, 2, 1), (4, 1, 1))


def test_a_call_without_a_kernel_is_refused():
    with pytest.raises(EmulatorError, match="found 0"):
        record(lambda x: [x + 1], [mx.zeros(1)])


def test_second_call_compiles_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("QWEN35_EMULATOR_CACHE", str(tmp_path))
    kernel = emulated(
        name="once",
        input_names=["x"],
        output_names=["y"],
        source="y[thread_position_in_grid.x] = x[thread_position_in_grid.x];",
    )
    options = {"grid": (32, 1, 1), "threadgroup": (32, 1, 1), "output_dtypes": [mx.float32]}
    x = mx.array(FLOATS)
    kernel(inputs=[x], output_shapes=[(32,)], **options)
    monkeypatch.setattr(build, "_zig", None)
    (y,) = kernel(inputs=[x], output_shapes=[(32,)], **options)
    assert mx.array_equal(x, y).item()
