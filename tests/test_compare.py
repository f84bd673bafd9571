"""`qwen35_mlx.compare`, and the command `python -m qwen35_mlx.compare`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import qwen35_mlx
from qwen35_mlx.compare import json_values, main, report
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.compare import Comparison, DivergenceFigures, ModelFigures

SAME = DivergenceFigures(0.0, 0.0, 0.0, 0.0, 1.0)
TEXT = "The quick brown fox jumps over the lazy dog. " * 8


@pytest.fixture(autouse=True)
def cache_limit():
    """The command sets it for the whole process."""
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    yield
    mx.set_cache_limit(limit)


@pytest.fixture(scope="module")
def four_bit(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "four-bit"
    convert(model_folder, path, quantize=True, q_bits=4, q_group_size=32, verify=False)
    return path


def test_the_function_and_the_command_agree(model_folder, four_bit, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    result = qwen35_mlx.compare(model_folder, four_bit, text=TEXT, tokens=60)
    assert result.tokens == 59
    assert result.divergence.mean > 1e-4 > result.floor.mean
    assert result.tensor_errors["mlp.switch_mlp.up_proj"] > 0.02
    arguments = [str(model_folder), str(four_bit), "--text", str(file), "--tokens", "60"]
    assert main([*arguments, "--json"]) == 0
    output = capsys.readouterr()
    reading, note = output.err.splitlines()
    assert reading == f"Reading {arguments[0]} and {arguments[1]}"
    assert note == (
        f"note: {arguments[0]} predicts this text worse than a guess among its 512 tokens would, "
        "so these figures say little: --text FILE measures on text of the model's own kind"
    )
    (line,) = output.out.splitlines()
    values = json.loads(line)
    assert values.pop("compare") == arguments[:2]
    assert values.keys() == json_values(result).keys()
    for key in ("a", "b", "divergence", "tensor_errors"):
        assert values[key] == pytest.approx(json_values(result)[key], rel=1e-4)
    assert main(arguments) == 0
    table = capsys.readouterr().out
    for figure in (
        f"{result.a.perplexity:.4f}",
        f"{result.b.perplexity:.4f}",
        f"{result.divergence.mean:.2e}",
        f"{result.divergence.top1:.2%}",
        f"{result.tensor_errors['mlp.switch_mlp.up_proj']:.2e}",
    ):
        assert figure in table


def test_columns_stand_apart(capsys):
    large = ModelFigures(215106.1547, 32155.9791, 0.5)
    result = Comparison(9, large, large, 0.1, 0.1, SAME, SAME, (0.1,) * 9, {"norm": 0.0}, ("x",))
    report(result, ("one", "two"))
    lines = capsys.readouterr().out.splitlines()
    perplexity = next(line for line in lines if line.startswith("perplexity"))
    assert perplexity.split()[1:] == ["215106.1547", "±", "32155.9791"] * 2
    assert lines[-1] == "note: x"
    assert max(map(len, lines)) <= 80
    assert sum(line.count("1.0e-01") for line in lines) == 9


def test_json_has_no_infinity():
    figures = ModelFigures(2.0, 0.1, None)
    result = Comparison(
        9, figures, figures, 0.0, 0.0, SAME, SAME, (), {"norm": float("inf"), "x": 0.5}, ()
    )
    values = json_values(result)
    assert values["tensor_errors"] == {"norm": None, "x": 0.5}
    assert "Infinity" not in json.dumps(values)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def test_tokenizers_that_differ_are_one_line(model_folder, tmp_path, capsys):
    other = shutil.copytree(model_folder, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["!"], vocab['"'] = vocab['"'], vocab["!"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    line = fails(capsys, model_folder, other)
    assert line.startswith("error: the tokenizers differ, so predictions cannot be compared: token")
    assert str(other) in line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--tokens", "1"], "tokens is 1: give a whole number"),
        (["--tokens", "x"], "invalid int value"),
        (["--text", "none.txt"], "--text 'none.txt' is not a text file"),
        (["--text", ""], "--text '' is not a text file"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_options_are_one_line(options, part, model_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert part in fails(capsys, model_folder, model_folder, *options)


def test_a_model_that_does_not_exist_is_one_line(model_folder, capsys, tmp_path):
    assert "none" in fails(capsys, model_folder, tmp_path / "none")


def test_a_text_of_one_token_is_refused(model_folder):
    with pytest.raises(Qwen35Error, match="the text has 1 tokens"):
        qwen35_mlx.compare(model_folder, model_folder, text="a")


@pytest.mark.parametrize(
    "arguments", [{"a": 5}, {"b": ""}, {"text": b"x"}, {"tokens": 0}, {"tokens": 1 << 19}]
)
def test_wrong_arguments_are_refused_before_anything_is_read(arguments):
    with pytest.raises(Qwen35Error, match=f"^{next(iter(arguments))} is "):
        qwen35_mlx.compare(**{"a": "demo", "b": "demo", **arguments})


def test_compare_stays_the_function_whatever_is_imported_first():
    code = "import qwen35_mlx.compare, qwen35_mlx; assert callable(qwen35_mlx.compare)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_text_that_the_model_predicts_is_not_called_foreign():
    result = qwen35_mlx.compare("demo", "demo", text="Hello, my name is" + " to" * 30)
    assert result.a.perplexity < 2048
    assert result.notes == ()
