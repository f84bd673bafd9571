import copy
import json
from dataclasses import replace

import pytest

from qwen35_mlx.errors import Qwen35Error, shown
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


def test_a_whole_float_is_a_token_id():
    config = changed(DENSE, eos_token_id=[7.0, 9])
    assert ModelConfig.from_dict(config).eos_token_ids == (7, 9)
    with pytest.raises(Qwen35Error, match="'eos_token_id'"):
        ModelConfig.from_dict(changed(DENSE, eos_token_id=7.5))


YARN = {
    **{"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1},
    **{"attention_factor": 1.2, "mscale": 1, "mscale_all_dim": 0, "rope_type": "yarn"},
}


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
        ({"num_hidden_layers": 10**6}, ["'num_hidden_layers'", "more than 1,024"]),
        ({"num_hidden_layers": 10**7, "layer_types": None}, ["'num_hidden_layers'", "1,024"]),
        ({"vocab_size": 2**60}, ["'vocab_size'", "more than 2,147,483,647"]),
        ({"hidden_size": 1e30}, ["'hidden_size'", "more than"]),
        ({"hidden_size": float("inf")}, ["'hidden_size'", "not a finite number"]),
        ({"head_dim": 2**20}, ["'head_dim'", "more than 65,536"]),
        ({"linear_conv_kernel_dim": 10**6}, ["'linear_conv_kernel_dim'", "more than 1,024"]),
        ({"rms_norm_eps": -1e-6}, ["'rms_norm_eps'", "from 0 to 1"]),
        ({"num_experts": "8"}, ["'num_experts'", "not a number"]),
        ({"mtp_num_hidden_layers": [1]}, ["'mtp_num_hidden_layers' is [1]"]),
        ({"tie_word_embeddings": "false"}, ["'tie_word_embeddings'", "neither true nor false"]),
        ({"hidden_act": ["x" * 10**6] * 100}, ["'hidden_act'"]),
        ({"layer_types": 5}, ["'layer_types' must name 4 layers", "it is 5"]),
        ({"layer_types": "linear_attention"}, ["'layer_types'"]),
        ({"layer_types": [["full_attention"]] * 4}, ["'layer_types'"]),
        ({"layer_types": {"full_attention": 1}}, ["'layer_types'"]),
        ({"layer_types": None, "full_attention_interval": 0.5}, ["0.5", "positive whole"]),
        ({"layer_types": None, "full_attention_interval": 0}, ["positive whole"]),
        ({"eos_token_id": "<|im_end|>"}, ["'eos_token_id'", "not a token id"]),
        ({"eos_token_id": [1, [2]]}, ["'eos_token_id'", "not a token id"]),
        ({"rope_parameters": 5}, ["'rope_parameters' is 5, not an object"]),
        ({"rope_parameters": None, "rope_scaling": ["yarn"]}, ["'rope_scaling'", "object"]),
        ({"rope_parameters": {"rope_type": {}}}, ["'rope_type' is {}, not a text"]),
        *(
            ({"rope_parameters": {"rope_theta": theta}}, ["'rope_theta'", "from"])
            for theta in (0, 1, -1e7, 1e300)
        ),
        *(
            ({"rope_parameters": {"partial_rotary_factor": share}}, ["partial_rotary_factor"])
            for share in (0, -0.5, 1.5, 2**31, 1e-9, 3 / 32, "0.5")
        ),
        *(
            ({"rope_parameters": YARN | {name: value}}, [f"'{name}'"])
            for name in sorted(YARN.keys() - {"rope_type"})
            for value in ("x", [], -1, True)
        ),
        ({"rope_parameters": YARN | {"factor": 0}}, ["'factor'"]),
        ({"rope_parameters": YARN | {"beta_slow": 1e-320}}, ["'beta_slow'"]),
        ({"rope_parameters": YARN | {"truncate": "no"}}, ["'truncate'"]),
    ],
    ids=shown,
)
def test_errors_name_the_field(fields, words):
    with pytest.raises(Qwen35Error) as caught:
        ModelConfig.from_dict(changed(DENSE, **fields))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert all(word in message for word in words), message


def test_every_field_of_yarn_is_read():
    rope = ModelConfig.from_dict(changed(DENSE, rope_parameters=YARN)).rope
    assert rope.scaling == YARN | {"rope_theta": 1e4, "partial_rotary_factor": 0.25}


@pytest.mark.parametrize("name", ["text_config", "tie_word_embeddings", "eos_token_id"])
@pytest.mark.parametrize("value", [3, "x", [[]], {"a": 1}])
def test_an_odd_field_beside_the_text_config_is_named(name, value):
    if (name, value) == ("eos_token_id", 3):
        return
    config = changed(DENSE, tie_word_embeddings=None) | {name: value}
    with pytest.raises(Qwen35Error, match=rf"'{name}'|no 'num_hidden_layers'"):
        ModelConfig.from_dict(config)


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
