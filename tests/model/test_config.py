import copy
import json
from dataclasses import replace

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from tests.goldens import FOLDER

MULTIMODAL = json.loads((FOLDER / "moe" / "config.json").read_text())
DENSE = json.loads((FOLDER / "dense" / "config.json").read_text())


def changed(source: dict, **fields) -> dict:
    config = copy.deepcopy(source)
    for name, value in fields.items():
        if value is None:
            del config["text_config"][name]
        else:
            config["text_config"][name] = value
    return config


def test_multimodal_and_text_only_configs_are_read_alike():
    text_only = MULTIMODAL["text_config"] | {"model_type": "qwen3_5_moe_text"}
    one, other = ModelConfig.from_dict(MULTIMODAL), ModelConfig.from_dict(text_only)
    for field in ModelConfig.__slots__:
        if field != "model_type":
            assert getattr(one, field) == getattr(other, field), field


def test_sparse_and_dense():
    assert ModelConfig.from_dict(MULTIMODAL).num_experts == 8
    dense = ModelConfig.from_dict(DENSE)
    assert dense.num_experts == 0
    assert dense.intermediate_size == 96


def test_layer_types_win_over_the_interval():
    types = ["full_attention", "linear_attention", "linear_attention", "linear_attention"]
    config = ModelConfig.from_dict(changed(DENSE, layer_types=types))
    assert config.layer_types == tuple(types)


def test_interval_where_layer_types_are_missing():
    config = ModelConfig.from_dict(changed(DENSE, layer_types=None, full_attention_interval=2))
    assert config.layer_types == ("linear_attention", "full_attention") * 2


def test_older_rope_fields():
    source = changed(DENSE, rope_parameters=None, rope_theta=5e5, partial_rotary_factor=0.5)
    rope = ModelConfig.from_dict(source).rope
    assert (rope.theta, rope.partial_rotary_factor, rope.scaling) == (5e5, 0.5, None)


@pytest.mark.parametrize("where", ["text", "top"])
def test_tied_embeddings_in_either_place(where):
    config = changed(DENSE, tie_word_embeddings=None)
    config.pop("tie_word_embeddings")
    (config["text_config"] if where == "text" else config)["tie_word_embeddings"] = True
    assert ModelConfig.from_dict(config).tie_word_embeddings


def test_eos_ids_of_both_levels():
    config = changed(DENSE, eos_token_id=7) | {"eos_token_id": [9, 7]}
    assert ModelConfig.from_dict(config).eos_token_ids == (9, 7)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"linear_key_head_dim": None}, ["no 'linear_key_head_dim'", "Qwen3.5"]),
        ({"hidden_size": "64"}, ["'hidden_size'", "'64'", "not a number"]),
        ({"hidden_size": 0}, ["'hidden_size'", "positive"]),
        ({"num_hidden_layers": 2.5}, ["'num_hidden_layers'", "whole"]),
        ({"head_dim": True}, ["'head_dim'", "not a number"]),
        ({"linear_num_value_heads": 5}, ["'linear_num_value_heads' 5", "multiple"]),
        ({"layer_types": ["full_attention"]}, ["'layer_types'", "4 layers"]),
        ({"layer_types": ["mamba"] * 4}, ["'layer_types'", "mamba"]),
        ({"hidden_act": "gelu"}, ["'hidden_act'", "gelu"]),
        ({"attn_output_gate": False}, ["'attn_output_gate'"]),
        ({"mtp_num_hidden_layers": 3}, ["'mtp_num_hidden_layers'", "3"]),
        ({"rope_parameters": {"rope_type": "llama3"}}, ["llama3", "yarn"]),
        ({"rope_parameters": {"rope_type": "yarn"}}, ["no 'factor'"]),
    ],
)
def test_errors_name_the_field(fields, words):
    with pytest.raises(Qwen35Error) as caught:
        ModelConfig.from_dict(changed(DENSE, **fields))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_more_experts_per_token_than_experts():
    with pytest.raises(Qwen35Error, match="num_experts_per_tok"):
        ModelConfig.from_dict(changed(MULTIMODAL, num_experts_per_tok=9))


def test_another_model_is_refused_by_name():
    with pytest.raises(Qwen35Error, match="'llama'"):
        ModelConfig.from_dict({"model_type": "llama"})


def test_a_longer_context_is_the_published_yarn():
    longer = ModelConfig.from_dict(DENSE).with_context(4 * 262144)
    published = changed(
        DENSE,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 262144,
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.5,
        },
        max_position_embeddings=4 * 262144,
    )
    assert longer == ModelConfig.from_dict(published)
    assert ModelConfig.from_dict(DENSE).with_context(1_010_000).rope == longer.rope


def test_a_context_within_the_trained_one_only_limits():
    config = ModelConfig.from_dict(DENSE)
    assert config.with_context(1000) == replace(config, max_position_embeddings=1000)


@pytest.mark.parametrize(("tokens", "words"), [(0, "1 token or more"), (2_000_000, "262,144")])
def test_a_context_out_of_range_is_refused(tokens, words):
    with pytest.raises(Qwen35Error, match=words):
        ModelConfig.from_dict(DENSE).with_context(tokens)
