"""Weights: shapes come from the one table, and wrong tensors are refused by name."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from qwen35_mlx.model.weights import Weights
from tests.goldens import network

CONFIGS = {name: network(name).config for name in ("dense", "moe")}
FOUR_BIT = Quantization(32, 4)


class ArraySource:
    """Arrays in memory, some of them quantised."""

    def __init__(self, arrays: Mapping[str, mx.array], quantized: Mapping[str, Quantization]):
        self.arrays, self.quantized = dict(arrays), dict(quantized)

    def names(self) -> frozenset[str]:
        return frozenset(self.arrays)

    def read(self, name: str) -> mx.array:
        return self.arrays[name]

    def quantization(self, module: str) -> Quantization | None:
        return self.quantized.get(module)

    def rotation(self, module: str) -> None:
        return None


def source(name: str) -> ArraySource:
    config = CONFIGS[name]
    shapes = trunk_tensors(config) | mtp_tensors(config)
    return ArraySource({tensor: mx.zeros(shape) for tensor, shape in shapes.items()}, {})


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_of_the_table_is_required_and_its_shape_checked(name):
    config, full = CONFIGS[name], source(name)
    Network(config, Weights(config, full), mtp=True)
    for tensor, array in list(full.arrays.items()):
        full.arrays[tensor] = mx.zeros((*array.shape[:-1], array.shape[-1] + 1))
        with pytest.raises(Qwen35Error, match=f"tensor '{tensor}' has shape") as wrong:
            Network(config, Weights(config, full), mtp=True)
        assert f"config.json asks for {list(array.shape)}" in str(wrong.value)
        del full.arrays[tensor]
        with pytest.raises(Qwen35Error, match=f"no tensor '{tensor}': is the download"):
            Network(config, Weights(config, full), mtp=True)
        full.arrays[tensor] = array


@pytest.mark.parametrize("module", ["mlp.switch_mlp.down_proj", "self_attn.q_proj"])
def test_a_quantised_matrix_is_checked_against_the_same_table(module):
    config, full = CONFIGS["moe"], source("moe")
    name = f"model.layers.3.{module}"
    plain = mx.random.normal(full.arrays.pop(f"{name}.weight").shape)
    packed = dict(zip(("weight", "scales", "biases"), mx.quantize(plain, 32, 4), strict=True))
    full.arrays |= {f"{name}.{part}": array for part, array in packed.items()}
    full.quantized[name] = FOUR_BIT
    linear = Weights(config, full, mx.bfloat16).scope("model.layers.3").linear(module)
    assert isinstance(linear.weight, QuantizedWeight)
    assert linear.weight.weight.dtype == mx.uint32  # bits are never cast
    assert linear.weight.scales.dtype == mx.bfloat16
    np.testing.assert_array_equal(np.array(linear.weight.weight), np.array(packed["weight"]))
    full.arrays[f"{name}.scales"] = packed["scales"][..., :-1]
    with pytest.raises(Qwen35Error, match=f"'{name}.scales' has shape"):
        Weights(config, full).linear(name)


def test_dtype_casts_matrices_and_rounds_no_norm():
    full = source("dense")
    norm = "model.layers.3.self_attn.q_norm.weight"
    full.arrays[norm] = full.arrays[norm].astype(mx.float16)
    weights = Weights(CONFIGS["dense"], full, mx.bfloat16).scope("model.layers")
    attention = weights.scope("3.self_attn")
    assert attention.linear("q_proj").dtype == mx.bfloat16
    assert attention.array("k_norm.weight").dtype == mx.float32
    # Neither float16 nor bfloat16 holds the values of the other.
    assert attention.array("q_norm.weight").dtype == mx.float32
    assert weights.array("0.linear_attn.A_log").dtype == mx.float32


def test_a_scope_has_what_lies_below_it():
    weights = Weights(CONFIGS["dense"], source("dense"))
    assert weights.has("mtp")
    assert weights.scope("model").scope("layers").scope(0).has("linear_attn.norm")
    assert not weights.has("mt")
    assert not weights.scope("model").has("mtp")
