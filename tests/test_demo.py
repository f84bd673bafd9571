"""The model that ships with the package, used as a person uses it."""

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from qwen35_mlx.model.cache import KVCache
from qwen35_mlx.session.events import Answer, Done


@pytest.fixture(scope="module")
def demo() -> qwen35_mlx.Model:
    return qwen35_mlx.load("demo")


def answer(events) -> tuple[str, Done]:
    said = list(events)
    assert isinstance(said[-1], Done)
    return "".join(event.text for event in said if isinstance(event, Answer)), said[-1]


def command(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen35_chat.main", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_carries_at_most_16_mb_of_it():
    assert sum(file.stat().st_size for file in Path(resolve_checkpoint("demo")).iterdir()) <= 16e6


def test_it_remembers_what_it_was_told(demo):
    chat = qwen35_mlx.Chat(demo, temperature=0.0)
    answer(chat.send("My name is Ada."))
    answer(chat.send("Name three fruits."))
    said, done = answer(chat.send("What is my name?"))
    assert "Ada" in said
    assert done.finish_reason == "stop"
    assert done.usage.cached_tokens > 0


def test_it_adds_two_digit_numbers(demo):
    question = [{"role": "user", "content": "What is 47 + 38?"}]
    said, _ = answer(demo.stream(question, thinking=True, temperature=0.0))
    assert "85" in said


def test_its_mtp_head_knows_something_of_the_next_but_one_token(demo):
    question = [{"role": "user", "content": "What is 23 + 45?"}]
    prompt = demo.render(question, thinking=True)
    _, done = answer(demo.stream(question, thinking=True, temperature=0.0))
    reply = f"{done.message['reasoning_content']}\n</think>\n\n{done.message['content']}"
    ids = mx.array([prompt + demo.tokenizer.encode(reply)])
    net = demo.network
    assert net.mtp is not None
    hidden = net(ids, net.make_cache())
    guessed = net.mtp(hidden[:, :-1], net.embed(ids[:, 1:]), KVCache())
    ahead = np.array(mx.argmax(net.logits(guessed), axis=-1))[0, :-1]
    chosen = np.array(mx.argmax(net.logits(hidden), axis=-1))[0, 1:-1]
    start = len(prompt) - 1
    # By chance it would be one in 2,048.
    assert (ahead[start:] == chosen[start:]).mean() > 0.4


def test_one_answer_on_the_command_line():
    done = command("-p", "What is 47 + 38?", "--temperature", "0", "--thinking")
    assert (done.returncode, done.stderr) == (0, "")
    assert "85" in done.stdout
    assert done.stdout.endswith("\n")


def test_standard_input_is_a_prompt_too():
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
def test_bad_input_is_one_line_and_exit_code_2(arguments, text, words):
    done = command(*arguments, text=text)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_importing_the_package_brings_nothing_heavy():
    code = (
        "import sys, qwen35_mlx;"
        "print([m for m in ('mlx', 'numpy', 'transformers', 'textual') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
