"""The development scripts start, and name files that exist."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest

from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from scripts import sanitize
from scripts.benchmarks import convert as bench
from scripts.benchmarks.convert_cases import CASES
from scripts.support.gguf_source import TYPES, write_gguf_source
from scripts.support.random_weights import SHAPES, random_source
from scripts.support.sources import KINDS, TINY, write_source

ROOT = Path(__file__).parents[1]
BENCHMARKS = (
    *(
        "convert",
        "drafts",
        "generate",
        "gguf",
        "grammar",
        "kernels",
        "kv8",
        "matvec",
        "passes",
        "ranks",
        "recipes",
        "server",
        "session",
    ),
    "ui",
)
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


PACKED = {"gptq", "awq", "compressed-tensors", "mlx", "gguf Q8_0", "gguf Q4_K"}
STORED = {
    **dict.fromkeys(("gptq", "awq", "compressed-tensors"), "I32"),
    **{"bf16": "BF16", "fp8": "F8_E4M3", "nvfp4": "U8", "mlx": "U32"},
}


@pytest.mark.parametrize("kind", [*KINDS, *(f"gguf {kind}" for kind in TYPES)])
def test_sources_of_the_converters_benchmark_are_of_their_kind(kind: str, tmp_path: Path):
    path = tmp_path / ("model.gguf" if kind.startswith("gguf ") else "source")
    if kind.startswith("gguf "):
        write_gguf_source(path, kind.removeprefix("gguf "), 1, TINY)
    else:
        write_source(path, kind, 1, TINY)
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    name = "model.layers.0.mlp.switch_mlp.up_proj.weight"
    assert isinstance(checkpoint.matrices[name], PackedMatrix) == (kind in PACKED)
    stored = STORED.get(kind, kind.removeprefix("gguf "))
    assert checkpoint.matrices[name].file.stored_dtype == stored
    values = checkpoint.plain(name).read(0, 1)
    assert 0 < abs(values).max().item() < 100
    assert {case.source for case in CASES} == {*KINDS, *(f"gguf {kind}" for kind in TYPES)}


def test_a_larger_source_of_the_converters_benchmark_has_more_layers(tmp_path: Path):
    sizes: dict[int, int] = {}
    for nbytes in (40_000_000, 80_000_000):
        write_source(tmp_path / str(nbytes), "bf16", nbytes, TINY)
        files = (tmp_path / str(nbytes)).glob("*.safetensors")
        sizes[nbytes] = sum(file.stat().st_size for file in files)
    assert all(abs(size / nbytes - 1) < 0.2 for nbytes, size in sizes.items()), sizes


def row(case: str, source_gb: float, above: float, **changes: float | None) -> bench.Row:
    values = {"result_gb": 1.0, "bar_mb": 700.0, "seconds": 1.0, "cpu": 1.0, "copies": 1.0}
    return bench.Row(case, source_gb, peak_mb=above + 50, above_mb=above, **(values | changes))


def test_bars_of_the_converters_benchmark():
    assert row("a", 2, 699).ok
    assert not row("a", 2, 700).ok
    assert row("mlx-lm", 2, 9000, bar_mb=None).ok
    assert row("streamed", 2, 100, disk_mb=10, disk_bar_mb=10).ok
    assert not row("streamed", 2, 100, disk_mb=11, disk_bar_mb=10).ok
    rows = [row("a", 8, 130), row("b", 2, 50), row("a", 2, 100)]
    assert bench.growth(rows) == {"a": 1.2}
