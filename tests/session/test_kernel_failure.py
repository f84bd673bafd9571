"""A GPU that fails in a turn: the reply goes on without the kernel, or ends and loses nothing."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import gpu_kernel, matvec
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection
from qwen35_mlx.library.library import Library
from qwen35_mlx.model import attention
from qwen35_mlx.model.linear import Linear
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.load import load
from qwen35_mlx.session.turn import DeviceError
from tests.kernels.test_gpu_kernel import fails_when_evaluated, on_a_cpu
from tests.session.durable_child import OPTIONS, done_of, fresh_logits, logits_after

pytestmark = on_a_cpu
VARIANTS = {
    "delta_decode": "one dispatch",
    "delta_prefill": "tiles",
    "qk_norm_rope": "one dispatch",
    "decode_attention": "two dispatches",
    "decode_attention_8bit": "two dispatches",
}


@pytest.fixture
def broken_gpu(monkeypatch):
    """A GPU on which kernels are launched, and fail when they are evaluated."""
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")
    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda _: launch)
    gpu_kernel._evaluated_variants.cache_clear()


def launch(output_shapes, output_dtypes, **_) -> list[mx.array]:
    outputs = zip(output_shapes, output_dtypes, strict=True)
    return [(poison() + mx.zeros(shape)).astype(dtype) for shape, dtype in outputs]


def poison() -> mx.array:
    """A number that cannot be evaluated."""
    return fails_when_evaluated()[0].sum()


@pytest.mark.parametrize(
    ("operation", "compiled"), [(name, True) for name in VARIANTS] + [("delta_decode", False)]
)
def test_a_turn_goes_on_without_a_kernel_that_fails(
    model, model_folder, request, operation, compiled
):
    kv_bits = 8 if operation.endswith("8bit") else None
    plain = load(model_folder, kv_bits=8) if kv_bits else model
    own = load(model_folder, kv_bits=kv_bits)
    chats = Chat(plain, **OPTIONS), Chat(own, **OPTIONS)
    for chat in chats:
        done_of(chat.send("Question 1", max_tokens=5))
    lines = []
    request.getfixturevalue("broken_gpu")
    selection = own.network.selection
    selection.select(operation, VARIANTS[operation])
    selection.compiled, selection.on_failure = compiled, lines.append
    want, got = (done_of(chat.send("Another question", max_tokens=9)) for chat in chats)
    assert got.message == want.message
    (line,) = lines
    assert "\n" not in line
    name = "decode_attention_partial" if operation.startswith("decode_") else operation[:5]
    assert line.startswith(f"kernel '{name}")
    assert "QWEN35_KERNELS=reference" in line
    after = logits_after(own, chats[1], "And now?")[0]
    # With 8 bits, a key next to the middle of two steps may be rounded to either.
    atol = 5e-4 if kv_bits else 1e-4
    np.testing.assert_allclose(after, fresh_logits(plain, chats[0], "And now?"), atol=atol)


def test_a_turn_that_cannot_be_computed_ends_in_one_line_and_the_next_one_is_right(
    model_folder, tmp_path, monkeypatch
):
    model = load(model_folder)
    with Library(tmp_path / "library") as library:
        chat = Chat(model, library=library, **OPTIONS)
        done_of(chat.send("Question 1", max_tokens=5))
        right = attention.qk_norm_rope

        def wrong(*args) -> tuple[mx.array, mx.array]:
            q, k = right(*args)
            return q, k + poison()

        with monkeypatch.context() as patch:
            patch.setattr(gpu_kernel, "on_gpu", lambda: True)
            patch.setattr(gpu_kernel, "backend", lambda: None)  # as without kernels
            patch.setattr(attention, "qk_norm_rope", wrong)
            with pytest.raises(DeviceError, match="QWEN35_KERNELS=reference") as caught:
                done_of(chat.send("Another question", max_tokens=9))
        assert "\n" not in str(caught.value)
        assert [m.state for m in chat.conversation.messages][-1] == "failed"
        assert chat.conversation.messages[-2].content == "Another question"
        done_of(chat.retry(max_tokens=9))
        after = logits_after(model, chat, "And now?")[0]
        np.testing.assert_allclose(after, fresh_logits(model, chat, "And now?"), atol=1e-4)


@pytest.mark.usefixtures("broken_gpu")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_product_falls_back_for_its_format(compiled):
    lines = []
    x = mx.random.normal((1, 5, 64), key=mx.random.key(0))
    weight = QuantizedWeight(*mx.quantize(x[0].T @ x[0], 64, 4), Quantization(64, 4))
    linear = Linear(weight, KernelSelection(on_failure=lines.append))
    want = linear(x, residual=x)
    linear.selection.matmul_decode = {linear.packing: matvec.KERNEL, "other": matvec.KERNEL}
    assert mx.array_equal(linear(x, residual=x), want)
    run = mx.compile(lambda: linear(x, residual=x)) if compiled else lambda: linear(x, residual=x)
    assert mx.array_equal(run(), want)
    assert linear.selection.matmul_decode == {linear.packing: REFERENCE, "other": matvec.KERNEL}
    assert len(lines) == 1
