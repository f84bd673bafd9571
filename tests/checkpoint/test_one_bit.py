"""Checkpoints of one bit per weight, against the values that the packing defines."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.network import Network
from tests.checkpoint.cases import Tensors, canonical, golden, write
from tests.goldens import assert_logits, expected

TOKENS = 70  # enough for experts in blocks and for more rows than a decode kernel takes


def one_bit(tensors: Tensors, group: int) -> tuple[Tensors, Tensors]:
    """A checkpoint with one-bit matrices, and its plain values.

    A word holds 32 values of a row, the first in the lowest bit: scale * bit + bias.
    """
    packed: Tensors = {}
    plain: Tensors = {}
    for name, value in tensors.items():
        if not recipes.is_quantizable(name, value.shape) or value.shape[-1] % group:
            packed[name] = plain[name] = value
            continue
        words, scales, biases = mx.quantize(value, group, 1)
        module = name.removesuffix(".weight")
        packed |= {name: words, f"{module}.scales": scales, f"{module}.biases": biases}
        codes = np.array(words)[..., None] >> np.arange(32, dtype=np.uint32) & 1
        codes = codes.reshape(value.shape)
        scale, bias = (np.repeat(np.array(a), group, axis=-1) for a in (scales, biases))
        plain[name] = mx.array(codes * scale + bias)
    return packed, plain


def folder(path: Path, config: dict, tensors: Tensors) -> Path:
    return write(path, config, {f"language_model.{name}": v for name, v in tensors.items()})


def logits(net: Network, prompt: mx.array) -> mx.array:
    """All but the last two tokens at once, then one by one."""
    cache = net.make_cache()
    steps = mx.split(prompt[None], [len(prompt) - 2, len(prompt) - 1], axis=1)
    return mx.concatenate([net.logits(net(ids, cache))[0] for ids in steps])


@pytest.mark.parametrize(("name", "group"), [("dense", 32), ("dense", 64), ("moe", 32)])
def test_logits_equal_those_of_the_plain_values(tmp_path: Path, name, group):
    config, tensors = golden(name)
    packed, plain = one_bit(canonical(tensors), group)
    entry = {"group_size": group, "bits": 1, "mode": "affine"}
    path = folder(tmp_path / "packed", config | {"quantization": entry}, packed)
    checkpoint = open_checkpoint(path)
    down = "switch_mlp.down_proj" if name == "moe" else "gate_proj"
    assert checkpoint.quantization(f"model.layers.0.mlp.{down}") == Quantization(group, 1)
    prompt = expected(name)["prompt"][:TOKENS]
    got = logits(load_network(checkpoint), prompt)
    want = logits(load_network(open_checkpoint(folder(tmp_path / "plain", config, plain))), prompt)
    assert_logits(got, want)
