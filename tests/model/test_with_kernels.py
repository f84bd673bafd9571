"""The whole network with kernels, in the emulator, and without them."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.convert import convert
from qwen35_mlx.kernels import add_norm, portable
from qwen35_mlx.kernels.experts import KERNEL
from qwen35_mlx.model.network import Network
from tests.goldens import FOLDER, NAMES, assert_logits, expected

PROMPT, STEPS = 20, 5


def use_kernels(net: Network, *, compiled: bool = False) -> None:
    net.choices.delta_step = "one dispatch"
    net.choices.delta_prompt = "8 lanes"
    net.choices.experts_step = KERNEL
    net.choices.add_norm = add_norm.KERNEL
    net.choices.compiled = compiled


def replies(net: Network, prompt: mx.array) -> tuple[np.ndarray, list[int]]:
    """Logits of the prompt and of greedy steps, and the steps' tokens."""
    cache = net.make_cache()
    rows = [net.logits(net(prompt[None], cache))[0]]
    tokens = []
    for _ in range(STEPS):
        tokens.append(int(mx.argmax(rows[-1][-1])))
        rows.append(net.logits(net(mx.array([tokens[-1:]]), cache))[0])
    return np.array(mx.concatenate(rows)), tokens


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", NAMES)
def test_kernels_give_the_reference_logits(name):
    want = expected(name)
    net = load_network(Checkpoint.open(FOLDER / name), dtype="float32")
    use_kernels(net)
    cache = net.make_cache()
    logits = net.logits(net(want["prompt"][None, :PROMPT], cache))[0]
    assert_logits(logits, want["prefill_logits"][:PROMPT])
    step = net.logits(net(want["prompt"][None, PROMPT : PROMPT + 1], cache))[0]
    assert_logits(step, want["prefill_logits"][PROMPT : PROMPT + 1])


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_experts_through_kernels(
    bits, model_folder: Path, tmp_path: Path, monkeypatch, request
):
    out = tmp_path / "out"
    convert(model_folder, out, quantize=True, q_bits=bits, q_group_size=32)
    net = load_network(Checkpoint.open(out), dtype="float32")
    prompt = expected("moe")["prompt"][:PROMPT]
    plain, plain_tokens = replies(net, prompt)
    request.getfixturevalue("kernels")
    use_kernels(net)
    launched = []
    compiled = portable.compiled
    monkeypatch.setattr(portable, "compiled", lambda k: launched.append(k.name) or compiled(k))
    fast, fast_tokens = replies(net, prompt)
    rule = {"gated_delta", "delta_inputs", "delta_rule", "gated_norm"}
    assert set(launched) == rule | {"add_norm", "route", "experts_up", "experts_down"}
    assert fast_tokens == plain_tokens
    np.testing.assert_allclose(fast, plain, atol=1e-4)
