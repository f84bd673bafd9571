"""Quantisation modes, and which tensors are quantised how."""

import copy
from typing import Any

import pytest

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.recipes import (
    KINDS,
    RECIPES,
    Quantization,
    Recipe,
    Upgrade,
    assign,
    is_favoured,
    kind_of,
    nbytes,
    plain,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from scripts.support.random_weights import SHAPES


@pytest.mark.parametrize(
    ("mode", "group_size", "bits"),
    [("affine", 64, 4), ("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)],
)
def test_defaults_of_a_mode(mode: str, group_size: int, bits: int):
    assert recipes.quantization(mode) == Quantization(group_size, bits, mode)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_affine_bits_and_group_sizes(bits: int, group_size: int):
    assert recipes.quantization("affine", bits, group_size) == Quantization(group_size, bits)


@pytest.mark.parametrize(
    ("mode", "bits", "group_size", "says"),
    [
        ("affine", 7, None, "there are no 7 bits in affine mode: choose 1, 2, 3"),
        ("affine", 0, None, "there are no 0 bits"),
        ("affine", 4, 16, "there are no groups of 16 in affine mode"),
        ("affine", 4, 0, "there are no groups of 0"),
        ("mxfp4", 8, None, "there are no 8 bits in mxfp4 mode: choose 4"),
        ("nvfp4", 4, 32, "there are no groups of 32 in nvfp4 mode: choose 16"),
        ("q4_k", None, None, "mode 'q4_k' is not known: choose one of affine"),
    ],
)
def test_a_quantisation_that_mlx_lacks_is_refused(mode: str, bits: int, group_size: int, says: str):
    with pytest.raises(Qwen35Error, match=says):
        recipes.quantization(mode, bits, group_size)


MODE = Quantization(32, 4, "mxfp4")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (8, 64), MODE),
        ("lm_head.weight", (8, 64), MODE),
        ("model.layers.0.mlp.switch_mlp.down_proj.weight", (4, 8, 64), MODE),
        ("model.layers.0.linear_attn.in_proj_a.weight", (2, 64), MODE),
        ("mtp.fc.weight", (8, 128), MODE),
        ("model.layers.0.mlp.gate_proj.weight", (8, 64), MODE),
        ("model.layers.0.mlp.gate.weight", (8, 64), Quantization(64, 8)),
        ("mtp.layers.0.mlp.shared_expert_gate.weight", (1, 64), Quantization(64, 8)),
        ("model.layers.0.mlp.gate.weight", (8, 96), None),
        ("model.layers.0.mlp.down_proj.weight", (8, 48), None),
        ("model.layers.0.linear_attn.conv1d.weight", (64, 4, 1), None),
        ("model.layers.0.linear_attn.conv1d.weight", (64, 1, 32), None),
        ("model.layers.0.linear_attn.A_log", (64,), None),
        ("model.layers.0.linear_attn.dt_bias", (64,), None),
        ("model.norm.weight", (64,), None),
    ],
)
def test_which_tensors_are_quantised_how(
    name: str, shape: tuple[int, ...], expected: Quantization | None
):
    assert recipes.quantization_for(name, shape, MODE) == expected


PUBLISHED = [name for name in SHAPES if name != "tiny"]
FOUR = Quantization(64, 4)


def sizes(name: str, **changes: Any) -> ModelConfig:
    config = copy.deepcopy(SHAPES[name])
    config["text_config"] |= changes
    return ModelConfig.from_dict(config)


def all_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return trunk_tensors(config) | mtp_tensors(config)


@pytest.mark.parametrize("name", ["9b", "35b-a3b"])
def test_every_matrix_has_a_kind_of_its_own(name: str):
    found: dict[str, set[str]] = {}
    shapes = all_shapes(sizes(name))
    for tensor, shape in shapes.items():
        if recipes.is_quantizable(tensor, shape):
            parts = tensor.split(".")
            end = ".".join(parts[3 if "layers" in parts else 0 :])
            found.setdefault(kind_of(tensor), set()).add(parts[0] if parts[0] == "mtp" else end)
    assert found.keys() <= set(KINDS)
    assert found["mtp"] == {"mtp"}
    assert found["delta_net_ab"] == {f"linear_attn.in_proj_{c}.weight" for c in "ab"}
    assert found["embedding"] == {"model.embed_tokens.weight"}
    assert found["head"] == {"lm_head.weight"}
    if name == "35b-a3b":
        assert found["router"] == {"mlp.gate.weight", "mtp"}
        assert found["expert_down"] == {"mlp.switch_mlp.down_proj.weight"}
        assert found["shared_expert_gate"] == {"mlp.shared_expert_gate.weight", "mtp"}
    else:
        assert found["mlp_gate_up"] == {"mlp.gate_proj.weight", "mlp.up_proj.weight"}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_balanced_recipes_stay_within_three_percent_of_plain_bytes(name: str, bits: int):
    config = sizes(name)
    shapes = all_shapes(config)
    bare = nbytes(shapes, assign(plain(Quantization(64, bits)), shapes, config))
    ours = assign(RECIPES[f"{bits}bit"], shapes, config)
    assert nbytes(shapes, ours) <= 1.03 * bare
    assert bits == 8 or nbytes(shapes, ours) > bare


@pytest.mark.parametrize("name", PUBLISHED)
def test_matrices_that_are_multiplied_as_one_keep_one_format(name: str):
    config = sizes(name)
    shapes = all_shapes(config)
    ours = assign(RECIPES["4bit"], shapes, config)
    for group in (
        {"delta_net_qkv", "delta_net_z", "delta_net_ab"},
        {"attention_k", "attention_v"},
        {"expert_gate_up", "expert_down", "shared_expert_gate_up", "shared_expert_down"},
        {"router", "shared_expert_gate"},
    ):
        for layer in range(len(config.layer_types)):
            formats = {
                quantization
                for tensor, quantization in ours.items()
                if f".layers.{layer}." in tensor and kind_of(tensor) in group
            }
            assert len(formats) <= 1


def test_bytes_are_counted_as_they_are_stored():
    shapes = {
        "model.embed_tokens.weight": (8, 128),
        "model.layers.0.linear_attn.A_log": (4,),
        "model.norm.weight": (128,),
    }
    chosen = {"model.embed_tokens.weight": Quantization(64, 4)}
    assert nbytes(shapes, chosen) == (8 * 64 + 2 * 8 * 2 * 2) + 4 * 4 + 128 * 2
    assert nbytes(shapes, {"model.embed_tokens.weight": Quantization(32, 4, "mxfp4")}) == (
        (8 * 64 + 8 * 4) + 4 * 4 + 128 * 2
    )


def test_an_upgrade_that_does_not_fit_leaves_room_for_a_later_one():
    config = sizes("9b")
    shapes = all_shapes(config)
    recipe = Recipe(
        "r", FOUR, search=True, budget=1.01,
        upgrades=(Upgrade(("mlp_down",), 1), Upgrade(("attention_v",), 2)),
    )  # fmt: skip
    ours = assign(recipe, shapes, config)
    assert ours["model.layers.3.mlp.down_proj.weight"] == FOUR
    assert ours["model.layers.3.self_attn.v_proj.weight"] == Quantization(64, 6)
    assert ours["mtp.layers.0.self_attn.v_proj.weight"] == FOUR


@pytest.mark.parametrize(("layers", "first"), [(4, {0}), (16, {0, 1}), (31, {0, 1, 2})])
def test_the_first_eighth_is_one_layer_at_least(layers: int, first: set[int]):
    config = sizes("9b", num_hidden_layers=layers)
    upgrade = Upgrade(("mlp_down",), 1, first_eighth=True)
    ours = assign(Recipe("r", FOUR, upgrades=(upgrade,), budget=2), all_shapes(config), config)
    for layer in range(layers):
        bits = 5 if layer in first else 4
        assert ours[f"model.layers.{layer}.mlp.down_proj.weight"] == Quantization(64, bits)
    assert ours["mtp.layers.0.mlp.down_proj.weight"] == FOUR


def test_no_upgrade_lowers_what_an_earlier_one_raised():
    config = sizes("9b")
    upgrades = (
        Upgrade(("mlp_down",), 2, first_eighth=True),
        Upgrade(("mlp_down",), 1),
        Upgrade(("mlp_down",), 0, group_size=128),
    )
    ours = assign(Recipe("r", FOUR, upgrades=upgrades, budget=2), all_shapes(config), config)
    assert ours["model.layers.0.mlp.down_proj.weight"] == Quantization(64, 6)
    assert ours["model.layers.9.mlp.down_proj.weight"] == Quantization(64, 5)


def test_tied_embeddings_are_upgraded_as_the_head():
    for tied, expected in ((True, Quantization(64, 5)), (False, FOUR)):
        config = sizes("9b", tie_word_embeddings=tied)
        recipe = Recipe("r", FOUR, upgrades=(Upgrade(("head",), 1),), budget=2)
        ours = assign(recipe, all_shapes(config), config)
        assert ours["model.embed_tokens.weight"] == expected


def test_rows_that_do_not_divide_into_larger_groups_keep_theirs():
    config = sizes("tiny", hidden_size=192)
    recipe = Recipe("r", FOUR, upgrades=(Upgrade(("embedding",), 0, group_size=128),))
    ours = assign(recipe, all_shapes(config), config)
    assert ours["model.embed_tokens.weight"] == FOUR
    wide = sizes("tiny", hidden_size=256)
    assert assign(recipe, all_shapes(wide), wide)["model.embed_tokens.weight"] == Quantization(
        128, 4
    )


@pytest.mark.parametrize("layers", [4, 8, 20, 24, 64])
@pytest.mark.parametrize("shape", ["9b", "4b", "tiny"])
@pytest.mark.parametrize("name", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_mixed_recipes_are_those_of_mlx_lm(name: str, shape: str, layers: int):
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.models import qwen3_5, qwen3_5_moe

    raw = copy.deepcopy(SHAPES[shape])
    raw["text_config"] |= {
        "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64,
        "linear_num_value_heads": 16,
    }  # fmt: skip
    if shape != "tiny":
        raw["text_config"]["intermediate_size"] = 64
    config = ModelConfig.from_dict(raw)
    code: Any = qwen3_5_moe if config.num_experts else qwen3_5
    model = code.Model(code.ModelArgs.from_dict(raw))
    predicate = mixed_quant_predicate_builder(name, model, 64)
    ours = assign(RECIPES[name], trunk_tensors(config), config)
    compared = 0
    for path, module in model.named_modules():
        if hasattr(module, "to_quantized"):
            theirs: Any = predicate(path, module)
            q = ours[path.removeprefix("language_model.") + ".weight"]
            assert q == Quantization(theirs["group_size"], theirs["bits"], theirs["mode"]), path
            compared += 1
    assert compared == sum(q is not None for q in ours.values())


def test_favoured_layers_are_the_outer_eighths_and_every_third_between():
    favoured = [layer for layer in range(24) if is_favoured(layer, 24)]
    assert favoured == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]


def test_the_plain_recipe_is_mlx_lms_without_one():
    config = sizes("35b-a3b")
    shapes = all_shapes(config)
    ours = assign(plain(FOUR), shapes, config)
    for name, shape in shapes.items():
        assert ours[name] == recipes.quantization_for(name, shape, FOUR), name
