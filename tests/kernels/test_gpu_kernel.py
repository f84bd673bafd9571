"""Launching kernel bodies, and when not to."""

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


@pytest.mark.parametrize("x", [0.0, 1e-6, -1.5, 1.1386, 3.4e38])
def test_float_bits_are_an_int32_with_the_bits_of_the_float(x):
    bits = gpu_kernel.float_bits(x)
    assert -(2**31) <= bits < 2**31
    assert mx.array(bits, mx.int32).view(mx.float32).item() == np.float32(x)
