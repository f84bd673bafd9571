"""The development scripts start, and name files that exist."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest

from scripts import sanitize
from scripts.support.random_weights import SHAPES, random_source

ROOT = Path(__file__).parents[1]
BENCHMARKS = ("convert", "generate", "kernels", "kv8", "recipes", "session", "ui")
COMMANDS = [
    *(f"scripts.benchmarks.{name}" for name in BENCHMARKS),
    "scripts.demo_training.__main__",
    "scripts.demo_training.evaluate_package",
    "scripts.sanitize",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_its_options(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(command).main()
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_every_command_of_the_benchmarks_is_listed():
    files = (ROOT / "scripts" / "benchmarks").glob("*.py")
    assert {file.stem for file in files if "__main__" in file.read_text()} == set(BENCHMARKS)


def test_the_sanitizer_runs_and_excludes_tests_that_exist():
    assert [file for file in sanitize.TESTS if not (ROOT / file).exists()] == []
    for excluded in sanitize.EXCLUDED.values():
        file, _, name = excluded.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("shape", SHAPES)
def test_random_weights_have_a_tensor_for_every_name(shape):
    source = random_source(shape)
    names = source.names()
    assert "model.embed_tokens.weight" in names
    packed = [name for name in names if name.endswith(".scales")]
    assert packed
    assert all(source.quantization(name.removesuffix(".scales")) for name in packed)


def test_random_weights_are_the_same_each_time():
    one, other = random_source("tiny"), random_source("tiny")
    for name in (
        "model.layers.0.linear_attn.A_log",
        "model.layers.0.mlp.switch_mlp.up_proj.weight",
    ):
        assert (one.read(name) == other.read(name)).all().item()
