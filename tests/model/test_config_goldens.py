"""Contradictory settings of config.json are read as transformers reads them, or refused.

The cases are those of scripts/make_config_goldens.py, which asked transformers.
"""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.reconcile import reconcile, resolved

GOLDENS = json.loads((Path(__file__).parent / "config_goldens.json").read_text())
GONE = "<removed>"

# Transformers loads these; here they are refused by name.
REFUSED = {
    "flat share null": "'partial_rotary_factor' of RoPE is null",
    "yarn with beta zero": "'beta_fast' is 0",
    "rope type linear": "rope_type 'linear'",
    "sliding layers": "'layer_types'",
    "no head_dim": "no 'head_dim'",
    "sparse model type without experts": "no 'num_experts'",
    "attn_output_gate false": "'attn_output_gate'",
}
# What a note must name, where a setting has no effect or one of two places is taken.
NOTED = {
    "no rope_parameters": "rope_theta",
    "rope_parameters null": "rope_theta",
    "rope_parameters empty": "rope_theta",
    "rope_parameters without theta": "rope_theta",
    "flat theta beside rope_parameters": "'rope_theta' outside",
    "flat share beside rope_parameters": "'partial_rotary_factor' outside",
    "rope_scaling beside rope_parameters": "'rope_scaling' is used in place",
    "rope_scaling without theta beside rope_parameters": "'rope_scaling' is used in place",
    "default rope at the top": "'rope_parameters' beside text_config",
    "flat rope at the top": "'rope_theta', 'partial_rotary_factor' beside text_config",
    "default rope_scaling at the top": "'rope_scaling' beside text_config",
    "yarn keys flat": "'rope_type' outside",
    "yarn keys flat without rope_parameters": "'rope_type' outside",
    "flat original beside yarn": "1024 is used in place of 16384",
    "yarn with factor null and flat original": "1024 is used in place of 16384",
    "flat original without yarn": "'original_max_position_embeddings' outside",
    "flat factor beside yarn": "'factor' outside",
    "flat attention_factor beside yarn": "'attention_factor' outside",
    "flat truncate beside yarn": "'truncate' outside",
    "type yarn beside rope_type default": "'factor' of RoPE has no effect",
    "no rope_type": "'factor' of RoPE has no effect",
    "default with a factor": "'factor' of RoPE has no effect",
    "sizes at the top differ": "'hidden_size', 'num_hidden_layers', 'head_dim' beside",
    "eps at the top": "'rms_norm_eps' beside",
    "eps at the top alone": "'rms_norm_eps' beside",
    "positions at the top": "'max_position_embeddings' beside",
    "positions at the top beside yarn": "'max_position_embeddings' beside",
    "layer_types at the top": "'layer_types' beside",
    "norm_topk_prob false": "'norm_topk_prob' False",
    "sliding window": "'use_sliding_window' True",
    "mlp_only_layers": "'mlp_only_layers' [0]",
}
SAME_NAME = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "max_position_embeddings"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "linear_num_key_heads"),
    *("linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"),
    "linear_conv_kernel_dim",
)
EXPERT_SIZES = (
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
    "shared_expert_intermediate_size",
)


def changed(top: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """The golden config with these changes."""

    def merge(source: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        merged = {k: v for k, v in copy.deepcopy(source | changes).items() if v != GONE}
        return {
            k: {i: j for i, j in v.items() if j != GONE} if isinstance(v, dict) else v
            for k, v in merged.items()
        }

    config = GOLDENS["config"]
    return merge(config, {**top, "text_config": merge(config["text_config"], text)})


@pytest.mark.parametrize("case", GOLDENS["cases"])
def test_a_setting_means_what_it_means_to_transformers(case: str):
    golden = GOLDENS["cases"][case]
    config = changed(golden["top"], golden["text"])
    expected = GOLDENS["transformers"] | golden["transformers"]
    if "error" in expected or case in REFUSED:
        with pytest.raises(Qwen35Error) as caught:
            ModelConfig.from_dict(config)
        assert "\n" not in str(caught.value)
        assert REFUSED.get(case, "config.json") in str(caught.value)
        return
    model, notes = reconcile(config, [])
    assert model == ModelConfig.from_dict(config)
    for name in SAME_NAME:
        assert getattr(model, name) == expected[name], name
    assert list(model.layer_types) == expected["layer_types"]
    assert (model.num_experts > 0) == expected["sparse"]
    if expected["sparse"]:
        assert [getattr(model, n) for n in EXPERT_SIZES] == [expected[n] for n in EXPERT_SIZES]
    else:
        assert model.intermediate_size == expected["intermediate_size"]
    rope = make_rope(model)
    inverse = 1 / np.array(rope.wavelengths)
    np.testing.assert_allclose(inverse, expected["inv_freq"], rtol=2e-6)
    assert rope.magnitude == pytest.approx(expected["magnitude"], rel=1e-12)
    if case == "rope_scaling without theta beside rope_parameters":
        assert "gives no rope_theta" in notes[0]
        notes = notes[1:]
    assert [NOTED[case] in line for line in notes] == [True] if case in NOTED else notes == ()


ALWAYS_NOTED = {"norm_topk_prob false", "sliding window", "mlp_only_layers"}
READ = [
    case
    for case, golden in GOLDENS["cases"].items()
    if "error" not in golden["transformers"] and case not in REFUSED
]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("case", READ)
def test_resolved_settings_say_the_same_in_one_place(case: str, flat: bool):
    config = changed(GOLDENS["cases"][case]["top"], GOLDENS["cases"][case]["text"])
    if flat:
        config = config["text_config"] | {"model_type": f"{config['model_type']}_text"}
    before = json.dumps(config)
    model, _ = reconcile(config, [])
    written = resolved(config, model)
    assert json.dumps(config) == before
    again, notes = reconcile(written, [])
    assert (again.rope.scaling is None) == (model.rope.scaling is None)
    np.testing.assert_array_equal(make_rope(again).wavelengths, make_rope(model).wavelengths)
    assert make_rope(again).magnitude == make_rope(model).magnitude
    assert replace(again, rope=model.rope) == model
    assert len(notes) == (case in ALWAYS_NOTED)
    text = written.get("text_config", written)
    assert {"rope_theta", "rope_scaling", "original_max_position_embeddings"}.isdisjoint(text)
    assert text["rope_parameters"]["rope_theta"] == model.rope.theta


@pytest.mark.parametrize("tied", [True, False])
def test_resolved_settings_have_one_word_on_ties_and_types(tied: bool):
    config = changed({"tie_word_embeddings": True}, EXPERTS)
    names = [*EXPERT_NAMES, *([] if tied else ["lm_head.weight"])]
    model, notes = reconcile(config, names)
    assert len(notes) == 2
    assert reconcile(resolved(config, model), names) == (model, ())


def test_odd_values_of_any_setting_are_errors_of_one_line_or_read():
    rng = random.Random(5)
    settings = [*GOLDENS["config"]["text_config"], *GOLDENS["config"], *ODD_SETTINGS]
    refused = 0
    for _ in range(2000):
        config = changed({"model_type": rng.choice(["qwen3_5", "qwen3_5_moe"])}, EXPERTS)
        for _ in range(rng.choice([1, 1, 2])):
            place = rng.choice([config, config.get("text_config"), config.get("rope_parameters")])
            if isinstance(place, dict):
                place[rng.choice(settings)] = copy.deepcopy(rng.choice(ODD_VALUES))
        try:
            model, notes = reconcile(config, rng.choice([EXPERT_NAMES, DENSE_NAMES, []]))
            make_rope(model)
            resolved(config, model)
        except Qwen35Error as error:
            refused += 1
            notes = (str(error),)
        assert all("\n" not in line and len(line) < 800 for line in notes)
    assert 500 < refused < 1950


ODD_SETTINGS = (
    *("rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"),
    *("factor", "rope_type", "type", "truncate", "per_layer_config", "norm_topk_prob"),
    *("use_sliding_window", "mlp_only_layers", "output_gate_type", "eos_token_id"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 4, 1e-320, 1e300, 0.5, 2**63, -(2**70), "", "yarn", "64"),
    *([], [[]], [1], {}, {"a": 1}, {"rope_type": "yarn"}, {"rope_type": "yarn", "factor": None}),
    *({"type": []}, {"full_attention": {}}, {"rope_theta": {}}, "x" * 10**5, ["y"] * 10**4),
)


@pytest.mark.parametrize("case", GOLDENS["heads"])
def test_the_output_head_is_the_one_that_transformers_takes(case: str):
    golden = GOLDENS["heads"][case]
    flags = [
        {"tie_word_embeddings": GONE if golden[place] is None else golden[place]}
        for place in ("top", "text")
    ]
    names = ["model.embed_tokens.weight"]
    names += [] if golden["lm_head"] == "absent" else ["lm_head.weight"]
    model, notes = reconcile(changed(*flags), names)
    # Two classes of transformers read one flag each. The head that one of them draws at random,
    # for want of a tensor, is nobody's meaning.
    heads = set(golden["transformers"].values()) - {"random"}
    if golden["lm_head"] == "equal":
        assert heads == {"embedding"}
        assert not model.tie_word_embeddings  # the same numbers
    elif heads:
        assert heads == {"embedding" if model.tie_word_embeddings else "lm_head"}
    else:
        assert not model.tie_word_embeddings  # the missing lm_head is then named
    wrong = golden["lm_head"] != "absent" and True in (golden["top"], golden["text"])
    split = {golden["top"], golden["text"]} == {True, False} and golden["lm_head"] == "absent"
    assert len(notes) == (wrong or split)


def test_a_quantised_head_is_a_head():
    model, _ = reconcile(changed({"tie_word_embeddings": True}, {}), ["lm_head.scales"])
    assert not model.tie_word_embeddings


EXPERTS = GOLDENS["cases"]["sparse"]["text"]
EXPERT_NAMES = ["model.layers.0.mlp.switch_mlp.gate_proj.weight"]
ONE_BY_ONE_NAMES = ["model.layers.0.mlp.experts.0.gate_proj.weight"]
DENSE_NAMES = ["model.layers.0.mlp.gate_proj.weight"]


@pytest.mark.parametrize("names", [EXPERT_NAMES, ONE_BY_ONE_NAMES])
def test_tensors_of_experts_make_a_dense_model_type_sparse(names):
    model, notes = reconcile(changed({}, EXPERTS), names)
    assert (model.model_type, model.num_experts) == ("qwen3_5_moe", EXPERTS["num_experts"])
    assert "'qwen3_5' is read as qwen3_5_moe" in notes[0]


def test_dense_tensors_make_a_sparse_model_type_dense():
    model, notes = reconcile(changed({"model_type": "qwen3_5_moe"}, EXPERTS), DENSE_NAMES)
    assert (model.model_type, model.num_experts) == ("qwen3_5", 0)
    assert "'qwen3_5_moe' is read as qwen3_5" in notes[0]


@pytest.mark.parametrize(
    ("top", "text", "names", "needed"),
    [
        ({}, {}, EXPERT_NAMES, "num_experts"),
        (
            {"model_type": "qwen3_5_moe"},
            EXPERTS | {"intermediate_size": GONE},
            DENSE_NAMES,
            "intermediate_size",
        ),
    ],
)
def test_tensors_of_another_model_type_are_refused(top, text, names, needed):
    with pytest.raises(Qwen35Error, match=f"model_type .* without '{needed}'"):
        reconcile(changed(top, text), names)


def test_a_dense_model_type_with_the_sizes_of_experts_alone_is_refused():
    with pytest.raises(Qwen35Error, match=r"'qwen3_5' is a dense model.*'num_experts' 4"):
        ModelConfig.from_dict(changed({}, EXPERTS | {"intermediate_size": GONE}))


def test_experts_of_the_mtp_head_do_not_decide():
    model, notes = reconcile(changed({}, {}), ["mtp.layers.0.mlp.experts.gate_up_proj"])
    assert (model.num_experts, notes) == (0, ())


@pytest.mark.parametrize(
    ("layer", "mixer"), [(3, "linear_attn.in_proj_qkv"), (0, "self_attn.q_proj")]
)
def test_a_layer_with_tensors_of_the_other_type_is_refused(layer, mixer):
    name = f"model.layers.{layer}.{mixer}.weight"
    with pytest.raises(Qwen35Error, match=rf"layer {layer} is of the type .*{name}"):
        reconcile(changed({}, {}), [name])


def test_layers_beyond_the_last_are_left_to_the_check_of_all_tensors():
    reconcile(changed({}, {}), ["model.layers.4.self_attn.q_proj.weight"])
