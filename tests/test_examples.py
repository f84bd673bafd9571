"""The scripts in examples/, each run as a user runs it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from qwen35_mlx.checkpoint.hub import resolve_checkpoint

EXAMPLES = Path(__file__).parents[1] / "examples"


# Measures conversions on the least that there is, 64 tokens: a text takes 20 seconds.
SHORT_PROOF = """
import runpy, sys
from qwen35_mlx.conversion import proof
proof._CPU_WORK = 0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(example: str, *arguments: str | Path, python: tuple[str, ...] = ()) -> str:
    """What an example prints.

    Args:
        python: arguments of Python in front of the example.
    """
    command = [sys.executable, *python, str(EXAMPLES / example), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def half_precision_demo(tmp_path: Path) -> Path:
    """The demo model before quantisation, in bfloat16."""
    source, folder = Path(resolve_checkpoint("demo")), tmp_path / "demo"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "*.py"))
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization")
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    tensors: dict[str, mx.array] = {}
    for file in source.glob("*.safetensors"):
        tensors |= mx.load(str(file))  # type: ignore[arg-type]
    plain = {}
    for name, array in tensors.items():
        module, _, part = name.rpartition(".")
        if f"{module}.scales" not in tensors:
            plain[name] = array
        elif part == "weight":
            scales, biases = tensors[f"{module}.scales"], tensors[f"{module}.biases"]
            group, bits = quantization["group_size"], quantization["bits"]
            plain[name] = mx.dequantize(array, scales, biases, group, bits).astype(mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), plain, {"format": "mlx"})
    return folder


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    assert [file.name for file in EXAMPLES.glob("*.py") if f'run("{file.name}"' not in text] == []


def test_every_example_is_short():
    assert all(len(file.read_text().splitlines()) < 40 for file in EXAMPLES.glob("*.py"))


def test_one_answer():
    output = run("one_answer.py", "What is 23 + 45?")
    assert "Answer: " in output
    assert "68" in output.partition("Answer: ")[2]
    assert "finish reason: stop" in output


def test_a_reopened_chat_prefills_its_new_tokens_only(tmp_path):
    output = run("stored_chat.py", tmp_path)
    turns = [tuple(map(int, pair)) for pair in re.findall(r"prompt: (\d+).*: (\d+)", output)]
    assert len(turns) == 3
    assert turns[0][0] == turns[0][1]
    assert all(prefilled < prompt - 10 for prompt, prefilled in turns[1:])
    reopened = output.partition("Reopened with 4 messages.")[2]
    assert "Ada" in reopened


def test_the_events_of_a_tool_call_and_its_result():
    output = run("events.py")
    assert "[call get_weather {'city': 'Paris'}]" in output
    call, _, after = output.partition("[tool_calls, ")
    assert re.search(r"\[prefill \d+/\d+\]", call)
    assert "sunny" in after
    assert "[stop, " in after


def test_an_answer_in_a_schema_and_a_forced_call():
    place, *calls = run("structured_output.py").splitlines()
    assert place.startswith("{'city': ")
    assert calls
    for call in calls:
        assert re.fullmatch(
            r"get_weather {'city': .*, 'unit': '(celsius|fahrenheit)'} tool_calls", call
        )


def test_a_converted_checkpoint_answers(half_precision_demo):
    output = run("convert_and_load.py", half_precision_demo, python=("-c", SHORT_PROOF))
    size = float(re.findall(r"([\d.]+) MB in 4 bits", output)[0])
    assert 5 < size < 10
    assert "Paris" in output


def test_logits_rank_fruits_above_vegetables():
    output = run("logits.py")
    shares = [float(share) for share in re.findall(r"([\d.]+)%", output)]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    fruits, vegetables = map(float, re.findall(r"(\d\.\de-\d+)", output))
    assert fruits > 1000 * vegetables
