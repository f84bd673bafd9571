"""The model that ships with the package, used from Python and from the command line."""

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.session.events import Answer, Done


@pytest.fixture(scope="module")
def demo() -> qwen35_mlx.Model:
    return qwen35_mlx.load("demo")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands read no settings of the user's."""
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))


def answer(events) -> tuple[str, Done]:
    received = list(events)
    assert isinstance(received[-1], Done)
    text = "".join(event.text for event in received if isinstance(event, Answer))
    return text, received[-1]


def command(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen35_chat.main", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_files_take_at_most_16_mb():
    assert sum(file.stat().st_size for file in Path(resolve_checkpoint("demo")).iterdir()) <= 16e6


def test_it_recalls_a_name_from_two_turns_before(demo):
    chat = qwen35_mlx.Chat(demo, temperature=0.0)
    answer(chat.send("My name is Ada."))
    answer(chat.send("Name three fruits."))
    text, done = answer(chat.send("What is my name?"))
    assert "Ada" in text
    assert done.finish_reason == "stop"
    assert done.usage.cached_tokens > 0


def test_it_adds_two_digit_numbers(demo):
    question = [{"role": "user", "content": "What is 47 + 38?"}]
    text, _ = answer(demo.stream(question, thinking=True, temperature=0.0))
    assert "85" in text


def test_its_mtp_head_predicts_the_token_after_the_next_better_than_chance(demo):
    question = [{"role": "user", "content": "What is 23 + 45?"}]
    prompt = demo.render(question, thinking=True)
    _, done = answer(demo.stream(question, thinking=True, temperature=0.0))
    reply = f"{done.message['reasoning_content']}\n</think>\n\n{done.message['content']}"
    ids = mx.array([prompt + demo.tokenizer.encode(reply)])
    net = load_network(open_checkpoint(demo.path), dtype="float32", mtp=True)
    assert net.mtp is not None
    hidden = net(ids, net.make_cache())
    predicted = net.mtp(hidden[:, :-1], net.embed(ids[:, 1:]), KVCache())
    ahead = np.array(mx.argmax(net.logits(predicted), axis=-1))[0, :-1]
    chosen = np.array(mx.argmax(net.logits(hidden), axis=-1))[0, 1:-1]
    start = len(prompt) - 1
    # Chance level is 1 / 4,096.
    assert (ahead[start:] == chosen[start:]).mean() > 0.4


def test_one_answer_from_the_command_line():
    done = command("-p", "What is 47 + 38?", "--temperature", "0", "--thinking")
    assert (done.returncode, done.stderr) == (0, "")
    assert "85" in done.stdout
    assert done.stdout.endswith("\n")


def test_standard_input_is_a_prompt():
    done = command("--temperature", "0", "--thinking", text="What is 47 + 38?\n")
    assert done.returncode == 0
    assert "85" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (["-p", " "], "", "prompt is empty"),
        (["-p", "x", "--model", "/no/such/folder"], "", "/no/such/folder"),
        (["-p", "x", "--model", "tests"], "", "config.json"),
        (["-p", "x", "--top-p", "3"], "", "--top-p"),
        ([], "word " * 20_000, "context is 8,192"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(arguments, text, words):
    done = command(*arguments, text=text)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
