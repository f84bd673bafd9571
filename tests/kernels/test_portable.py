import mlx.core as mx
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels import portable
from qwen35_mlx.kernels.portable import Kernel, Launch


def test_a_variable_keeps_kernels_off(monkeypatch):
    monkeypatch.setenv(portable.SWITCH, "reference")
    assert portable.backend() is None


def test_the_cpu_has_no_kernels(monkeypatch):
    monkeypatch.delenv(portable.SWITCH, raising=False)
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        assert portable.backend() is None
    finally:
        mx.set_default_device(before)


def test_a_kernel_that_does_not_start_is_named_with_its_shapes(monkeypatch):
    def refuse(**_):
        raise RuntimeError("threadgroup too large\nand more")

    monkeypatch.setattr(portable, "compiled", lambda _: refuse)
    kernel = Kernel("route", inputs=("logits",), outputs=("weights", "experts"))
    launch = Launch(1, 32, [((1,), mx.float32)], {})
    with pytest.raises(Qwen35Error) as caught:
        kernel([mx.zeros((2, 9))], launch)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("'route'", "logits [2, 9]", "threadgroup too large"))
