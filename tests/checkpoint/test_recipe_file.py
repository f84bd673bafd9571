"""Recipes in TOML files."""

from pathlib import Path

import pytest

from qwen35_mlx.checkpoint.recipe_file import find_recipe
from qwen35_mlx.checkpoint.recipes import RECIPES, Quantization, assign
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import trunk_tensors
from scripts.support.random_weights import SHAPES

FOUR = Quantization(64, 4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_a_recipe_of_its_own(file: Path):
    file.write_text(
        "search = false\n[default]\nbits = 3\ngroup_size = 32\n[kinds.router]\nplain = true\n"
        "[kinds.mlp_down]\nbits = 4\n[favoured.mlp_down]\nbits = 6\n"
        '[kinds.head]\nmode = "mxfp8"\n'
    )
    recipe = find_recipe(str(file))
    assert recipe.name == "mine.toml"
    assert not recipe.search
    assert not recipe.upgrades
    config = ModelConfig.from_dict(SHAPES["9b"])
    ours = assign(recipe, trunk_tensors(config), config)
    assert ours["lm_head.weight"] == Quantization(32, 8, "mxfp8")
    assert ours["model.embed_tokens.weight"] == Quantization(32, 3)
    assert ours["model.layers.0.mlp.down_proj.weight"] == Quantization(64, 6)
    assert ours["model.layers.4.mlp.down_proj.weight"] == FOUR
    sparse = ModelConfig.from_dict(SHAPES["35b-a3b"])
    ours = assign(recipe, trunk_tensors(sparse), sparse)
    assert ours["model.layers.0.mlp.gate.weight"] is None
    assert ours["model.layers.0.mlp.shared_expert_gate.weight"] == Quantization(64, 8)


def test_a_file_changes_its_base_and_the_rest_is_as_it_was(file: Path):
    file.write_text('base = "4bit"\n[kinds.head]\nbits = 8\n[kinds.attention_k]\nbits = 4\n')
    recipe = find_recipe(str(file))
    assert recipe.search
    assert recipe.budget == RECIPES["4bit"].budget
    config = ModelConfig.from_dict(SHAPES["27b"])
    ours = assign(recipe, trunk_tensors(config), config)
    assert ours["lm_head.weight"] == Quantization(64, 8)
    assert ours["model.layers.3.self_attn.k_proj.weight"] == FOUR
    assert ours["model.layers.3.self_attn.v_proj.weight"] == Quantization(64, 6)
    assert ours["model.layers.3.mlp.up_proj.weight"] == Quantization(128, 4)


def test_a_kind_that_the_file_names_is_not_favoured_by_its_base(file: Path):
    file.write_text('base = "mixed_3_6"\n[kinds.mlp_down]\nbits = 4\n')
    config = ModelConfig.from_dict(SHAPES["9b"])
    ours = assign(find_recipe(str(file)), trunk_tensors(config), config)
    assert ours["model.layers.0.mlp.down_proj.weight"] == FOUR
    assert ours["model.layers.31.self_attn.v_proj.weight"] == Quantization(64, 6)
    assert not find_recipe(str(file)).search


def test_a_default_ends_the_upgrades_of_the_base(file: Path):
    file.write_text('base = "4bit"\n[default]\nmode = "nvfp4"\n')
    recipe = find_recipe(str(file))
    assert recipe.default == Quantization(16, 4, "nvfp4")
    assert not recipe.upgrades
    file.write_text("[default]\nplain = true\n[kinds.mlp_down]\nbits = 8\n")
    recipe = find_recipe(str(file))
    assert recipe.default is None
    assert recipe.kinds["mlp_down"] == Quantization(64, 8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bits = 4", "bits is not known: choose one of base, search, default"),
        ("[default]\nbit = 4", "default.bit is not known: choose one of bits, group_size"),
        ("[default]\nbits = true", "default.bits must be a whole number"),
        ("[default]\nbits = 4.0", "default.bits must be a whole number"),
        ("[default]\nbits = 7", r"\[default\]: there are no 7 bits"),
        ("[default]\ngroup_size = 48", r"\[default\]: there are no groups of 48"),
        ("[default]\nmode = 'q4'", r"\[default\]: mode 'q4' is not known"),
        ("[default]\nbits = 4\n[kinds.lm_head]\nbits = 6", "kinds.lm_head is not known"),
        ("[kinds.head]\nbits = 6", "neither a base nor a .default."),
        ("base = '4 bit'", "base = '4 bit' is no recipe: choose one of 3bit, 4bit"),
        ("base = []", "is no recipe"),
        ("base = '4bit'\nsearch = 1", "search = 1 must be true or false"),
        ("default = 4", "default must be a table"),
        ("base = '4bit'\nkinds = [1]", "kinds must be a table"),
        ("base = '4bit'\nkinds.head = 6", "kinds.head must be a table"),
        ("[default]\nplain = true\nbits = 4", "is plain and has other settings"),
        ("default = {", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_errors_name_file_and_key(file: Path, text: str, says: str):
    file.write_text(text)
    with pytest.raises(Qwen35Error, match=says) as raised:
        find_recipe(str(file))
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_names_and_missing_files(file: Path):
    with pytest.raises(Qwen35Error, match="'mixed_5_6' is not known: choose one of 3bit, 4bit"):
        find_recipe("mixed_5_6")
    with pytest.raises(Qwen35Error, match=r"mine\.toml"):
        find_recipe(str(file))
