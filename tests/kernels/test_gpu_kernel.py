"""Launching kernel bodies, and when not to."""

import re
from importlib import resources

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.gpu_kernel import Kernel, Launch


def test_an_environment_variable_disables_kernels(monkeypatch):
    monkeypatch.setenv(gpu_kernel.KERNELS_ENV, "reference")
    assert gpu_kernel.backend() is None


def test_the_cpu_has_no_kernels(monkeypatch):
    monkeypatch.delenv(gpu_kernel.KERNELS_ENV, raising=False)
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        assert gpu_kernel.backend() is None
    finally:
        mx.set_default_device(before)


def test_a_launch_error_names_the_kernel_and_its_shapes(monkeypatch):
    def refuse(**_):
        raise RuntimeError("threadgroup too large\nand more")

    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda _: refuse)
    kernel = Kernel("experts_route", inputs=("logits",), outputs=("weights", "experts"))
    launch = Launch(1, 32, [((1,), mx.float32)], {})
    with pytest.raises(Qwen35Error) as caught:
        kernel([mx.zeros((2, 9))], launch)
    message = str(caught.value)
    assert "\n" not in message
    assert all(
        word in message for word in ("'experts_route'", "logits [2, 9]", "threadgroup too large")
    )


@pytest.mark.parametrize(
    "message",
    ["[metal::malloc] Unable to allocate 9 bytes.", "cudaMallocAsync failed: out of memory"],
)
def test_a_kernel_is_not_blamed_for_a_full_memory(monkeypatch, message):
    def refuse(**_):
        raise RuntimeError(message)

    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda _: refuse)
    kernel = Kernel("experts_route", inputs=("logits",), outputs=("weights", "experts"))
    with pytest.raises(RuntimeError, match="alloc") as caught:
        kernel([mx.zeros((2, 9))], Launch(1, 32, [((1,), mx.float32)], {}))
    assert not isinstance(caught.value, Qwen35Error)


def fails_when_evaluated(**_) -> list[mx.array]:
    """As a launch of a kernel that does not compile: MLX says so only at evaluation."""
    halves = mx.ones((1, 1, 4), mx.float16)
    return [mx.gather_mm(halves, halves.swapaxes(1, 2), rhs_indices=mx.array([0]))]


on_a_cpu = pytest.mark.skipif(
    mx.default_device() != mx.cpu, reason="a product that CPUs alone refuse"
)


@on_a_cpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_kernel_that_fails_at_evaluation_is_named_at_its_first_launch(monkeypatch, compiled):
    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda _: fails_when_evaluated)
    gpu_kernel._evaluated_variants.cache_clear()
    kernel = Kernel("experts_route", inputs=("logits",), outputs=("weights",))

    def run() -> list[mx.array]:
        return kernel([mx.zeros((2, 9))], Launch(1, 32, [((1,), mx.float32)], {}))

    for _ in range(2):
        with pytest.raises(gpu_kernel.KernelError, match=r"'experts_route' .*QWEN35_KERNELS=ref"):
            mx.compile(run)() if compiled else run()


@on_a_cpu
def test_a_kernel_is_not_blamed_for_inputs_that_fail(monkeypatch):
    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda _: fails_when_evaluated)
    gpu_kernel._evaluated_variants.cache_clear()
    kernel = Kernel("experts_route", inputs=("logits",), outputs=("weights",))
    with pytest.raises(RuntimeError, match="GatherMM"):
        kernel(fails_when_evaluated(), Launch(1, 32, [((1,), mx.float32)], {}))


def test_launches_are_evaluated_only_once_and_never_while_recorded(monkeypatch):
    launches, evaluate = [], mx.eval
    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda _: lambda inputs, **_: [inputs[0] + 1])
    monkeypatch.setattr(mx, "eval", lambda arrays: launches.append(arrays) or evaluate(arrays))
    gpu_kernel._evaluated_variants.cache_clear()
    kernel = Kernel("experts_route", inputs=("logits",), outputs=("weights",))

    def run(x: mx.array, size: int) -> mx.array:
        return kernel([x], Launch(1, 32, [((1,), mx.float32)], {"E": size}))[0]

    x = mx.ones((2, 9))
    assert mx.compile(run)(x, 9).tolist() == (x + 1).tolist()
    launches.clear()
    for size in (9, 9, 10, 9, 10):
        run(x, size)
    assert len(launches) == 2 * 2  # inputs, then outputs


BODIES = sorted(resources.files("qwen35_mlx.kernels").iterdir(), key=lambda file: file.name)


@pytest.mark.parametrize(
    "file", [f for f in BODIES if f.name.endswith(".metal")], ids=lambda f: f.name
)
def test_strip_comments_leaves_all_code(file):
    body = file.read_text()
    code = [line.split("//")[0].strip() for line in body.splitlines()]
    assert [line.rstrip() for line in gpu_kernel.strip_comments(body).splitlines()] == [
        c for c in code if c
    ]


def rolled_loops(body: str) -> list[str]:
    """Heads of loops that index a register array by their variable and are not unrolled.

    Compilers keep an array in registers only if all its indices are constants.
    """
    lines = gpu_kernel.strip_comments(body).splitlines()
    declared = [
        re.match(r"(?!threadgroup|return)[\w<>, ]+? (\w+)\[[^]]+\](;| =)", x) for x in lines
    ]
    arrays = "|".join({match[1] for match in declared if match})
    found = []
    for number, line in enumerate(lines):
        head = re.match(r"for \(int (\w+) = .*?\) ?(.*)$", line)
        if not arrays or not head or lines[number - 1] == "#pragma unroll":
            continue
        text, depth = head[2], 0
        for following in lines[number:]:
            text += following
            depth += following.count("{") - following.count("}")
            if depth == 0 and following[-1] in ";}":
                break
        if re.search(rf"\b({arrays})\[[^]]*\b{head[1]}\b", text):
            found.append(line)
    return found


@pytest.mark.parametrize(
    "name",
    [
        f.name.removesuffix(".metal")
        for f in BODIES
        if f.name.endswith(".metal") and not f.name.startswith("include_")
    ],
)
def test_loops_over_register_arrays_are_unrolled(name):
    assert rolled_loops(Kernel(name, (), ()).body) == []


def test_a_rolled_loop_over_a_register_array_is_found():
    body = "float a[4];\n#pragma unroll\nfor (int i = 0; i < 4; ++i) a[i] = 0.0f;\n"
    assert rolled_loops(body) == []
    assert rolled_loops(body.replace("#pragma unroll\n", "")) == [
        "for (int i = 0; i < 4; ++i) a[i] = 0.0f;"
    ]
    braces = "for (int j = 0; j < 4; ++j) {\nfloat b[4];\nif (j > 1) {\nb[2 * j] = 0.0f;\n}\n}\n"
    assert rolled_loops(braces) == ["for (int j = 0; j < 4; ++j) {"]
    assert rolled_loops(braces.replace("float b", "threadgroup float b")) == []


@pytest.mark.parametrize("x", [0.0, 1e-6, -1.5, 1.1386, 3.4e38])
def test_float_bits_are_an_int32_with_the_bits_of_the_float(x):
    bits = gpu_kernel.float_bits(x)
    assert -(2**31) <= bits < 2**31
    assert mx.array(bits, mx.int32).view(mx.float32).item() == np.float32(x)
