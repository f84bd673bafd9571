"""The table of a conversion's plan."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx.checkpoint.recipes import RECIPES, Quantization, Recipe, assign, nbytes, plain
from qwen35_mlx.conversion.plan_table import memory, memory_line, table, table_lines
from qwen35_mlx.conversion.planned_tensor import TensorPlan
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import kv_bytes_per_token
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from scripts.support.random_weights import SHAPES


def config_of(name: str, **changes: Any) -> ModelConfig:
    text = SHAPES[name]["text_config"] | changes
    return ModelConfig.from_dict(SHAPES[name] | {"text_config": text})


def planned(config: ModelConfig, recipe: Recipe, mtp: bool = False) -> list[TensorPlan]:
    shapes = trunk_tensors(config) | (mtp_tensors(config) if mtp else {})
    chosen = assign(recipe, shapes, config)
    dtypes = {name: mx.float32 if name.endswith(".A_log") else mx.bfloat16 for name in shapes}
    return [TensorPlan(name, shape, dtypes[name], chosen[name]) for name, shape in shapes.items()]


@pytest.mark.parametrize("name", ["4b", "35b-a3b"])
def test_rows_count_every_tensor_and_byte_once(name: str):
    config = config_of(name)
    tensors = planned(config, RECIPES["4bit"], mtp=True)
    rows = table(tensors)
    assert sum(row.tensors for row in rows) == len(tensors)
    shapes = trunk_tensors(config) | mtp_tensors(config)
    expected = nbytes(shapes, assign(RECIPES["4bit"], shapes, config))
    assert sum(row.nbytes for row in rows) == expected
    assert len({row.kind for row in rows}) == len(rows)


def test_bits_per_weight_include_scales_and_biases():
    config = config_of("9b")
    rows = {row.kind: row for row in table(planned(config, RECIPES["mixed_4_6"]))}
    assert rows["mlp_gate_up"].bits_per_weight == 4.5
    assert rows["head"].bits_per_weight == 6.5
    assert rows["mlp_down"].formats == ("6-bit/64", "4-bit/64")
    assert rows["norms and others"].formats == ("bfloat16", "float32")
    assert "mtp" not in rows
    modes = plain(Quantization(32, 4, "mxfp4"))
    rows = {row.kind: row for row in table(planned(config, modes))}
    assert rows["head"].bits_per_weight == 4.25
    assert rows["head"].formats == ("4-bit/32 mxfp4",)


def test_columns_are_aligned_and_end_in_a_sum():
    tensors = planned(config_of("9b"), RECIPES["4bit"])
    head, *lines, total = table_lines(table(tensors))
    assert {len(line) for line in (head, *lines, total)} == {len(head)}
    assert total.split()[0] == "all"
    assert int(total.split()[-1].replace(",", "")) == sum(tensor.nbytes for tensor in tensors)


def test_memory_grows_by_keys_and_values_those_of_the_mtp_head_included():
    config = config_of("27b")
    tensors = planned(config, RECIPES["4bit"])
    used = memory(config, tensors)
    assert list(used) == [8192, 32768, 262144]
    assert used[8192] > sum(tensor.nbytes for tensor in tensors)
    assert used[262144] - used[32768] >= kv_bytes_per_token(config, 2) * (262144 - 32768)
    tensors = planned(config, RECIPES["4bit"], mtp=True)
    head = sum(t.nbytes for t in tensors if t.sources[0].startswith("mtp."))
    more = memory(config, tensors)[262144] - used[262144] - head
    layers = config.layer_types.count("full_attention")
    one_layer = kv_bytes_per_token(config, 2) * 262144 / layers
    assert one_layer <= more <= 1.3 * one_layer
    wide = [replace(tensor, quantization=None, dtype=mx.float32) for tensor in tensors]
    grown = memory(config, wide)
    assert grown[262144] - grown[32768] > 1.9 * (used[262144] - used[32768])


def test_contexts_end_at_the_models_own():
    config = config_of("27b", max_position_embeddings=32768)
    assert list(memory(config, planned(config, RECIPES["4bit"]))) == [8192, 32768]
    config = config_of("27b", max_position_embeddings=600)
    assert memory_line(memory(config, planned(config, RECIPES["4bit"]))).endswith("600 tokens")
    assert memory_line({8192: 10**9, 262144: 2 * 10**9}).endswith("1.00 GB at 8K, 2.00 GB at 262K")
