"""The table of a recipe, before a conversion."""

import pytest

from qwen35_mlx.checkpoint.recipe_table import memory, rendered, table
from qwen35_mlx.checkpoint.recipes import RECIPES, Quantization, assign, nbytes, plain
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import kv_bytes_per_token
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from scripts.support.random_weights import SHAPES


@pytest.mark.parametrize("name", ["4b", "35b-a3b"])
def test_rows_count_every_tensor_and_byte_once(name: str):
    config = ModelConfig.from_dict(SHAPES[name])
    shapes = trunk_tensors(config) | mtp_tensors(config)
    rows = table(config, RECIPES["4bit"], shapes)
    assert sum(row.tensors for row in rows) == len(shapes)
    assert sum(row.nbytes for row in rows) == nbytes(
        shapes, assign(RECIPES["4bit"], shapes, config)
    )
    assert len({row.kind for row in rows}) == len(rows)


def test_bits_per_weight_include_scales_and_biases():
    config = ModelConfig.from_dict(SHAPES["9b"])
    rows = {row.kind: row for row in table(config, RECIPES["mixed_4_6"], trunk_tensors(config))}
    assert rows["mlp_gate_up"].bits_per_weight == 4.5
    assert rows["head"].bits_per_weight == 6.5
    assert rows["mlp_down"].formats == ("6-bit/64", "4-bit/64")
    assert "mtp" not in rows
    text = rendered(list(rows.values()), memory(config, 0))
    assert len({line.rindex(" ") for line in text.splitlines()[1:-1]}) > 0
    assert text.splitlines()[-2].startswith("all ")
    modes = plain(Quantization(32, 4, "mxfp4"))
    rows = {row.kind: row for row in table(config, modes, trunk_tensors(config))}
    assert rows["head"].bits_per_weight == 4.25
    assert rows["head"].formats == ("4-bit/32 mxfp4",)


def test_memory_grows_by_keys_and_values_and_stops_at_the_models_context():
    config = ModelConfig.from_dict(SHAPES["27b"])
    used = memory(config, 10**9)
    assert list(used) == [8192, 32768, 262144]
    assert used[8192] > 10**9
    assert used[262144] - used[32768] >= kv_bytes_per_token(config, 2) * (262144 - 32768)
    text = rendered(table(config, RECIPES["4bit"], trunk_tensors(config)), used)
    assert "at 8K" in text
    assert "at 262K" in text
    short = SHAPES["27b"] | {
        "text_config": SHAPES["27b"]["text_config"] | {"max_position_embeddings": 32768}
    }
    assert list(memory(ModelConfig.from_dict(short), 0)) == [8192, 32768]
