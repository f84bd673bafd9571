"""The published models, by their sizes alone."""

import math
from typing import Any

import pytest

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors


def published(hidden: int, layers: int, heads: int, kv: int, values: int, **more: Any) -> Any:
    text = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "linear_num_value_heads": values,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "head_dim": 256,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
        "mtp_num_hidden_layers": 1,
    }
    sparse = "num_experts" in more
    return {"model_type": "qwen3_5_moe" if sparse else "qwen3_5", "text_config": text | more}


def experts(count: int, top: int, width: int) -> dict[str, int]:
    return {
        "num_experts": count,
        "num_experts_per_tok": top,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width,
    }


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (published(1024, 24, 8, 2, 16, intermediate_size=3584, tie_word_embeddings=True), 0.75),
        (published(2560, 32, 16, 4, 32, intermediate_size=9216, tie_word_embeddings=True), 4.21),
        (published(4096, 32, 16, 4, 32, intermediate_size=12288), 8.95),
        (published(5120, 64, 24, 4, 48, intermediate_size=17408), 26.9),
        (published(2048, 40, 16, 2, 32, **experts(256, 8, 512)), 34.7),
        (published(3072, 48, 32, 2, 64, **experts(256, 8, 1024)), 122.1),
        (published(4096, 60, 32, 2, 64, **experts(512, 10, 1024)), 396.3),
    ],
)
def test_parameters_of_the_published_sizes(config: Any, billions: float):
    shapes = trunk_tensors(ModelConfig.from_dict(config))
    found = sum(map(math.prod, shapes.values())) / 1e9
    assert found == pytest.approx(billions, rel=0.005)


def test_the_mtp_head_is_one_full_attention_layer_and_its_own_parts():
    config = published(1024, 24, 8, 2, 16, intermediate_size=3584)
    shapes = mtp_tensors(ModelConfig.from_dict(config))
    assert {n for n in shapes if "layers" not in n} == {
        "mtp.fc.weight",
        "mtp.norm.weight",
        "mtp.pre_fc_norm_embedding.weight",
        "mtp.pre_fc_norm_hidden.weight",
    }
    assert shapes["mtp.fc.weight"] == (1024, 2048)
    assert not any("linear_attn" in name for name in shapes)
    config["text_config"]["mtp_num_hidden_layers"] = 0
    assert mtp_tensors(ModelConfig.from_dict(config)) == shapes
