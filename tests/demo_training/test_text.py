"""Tokenizer and chat template of the demo model."""

import itertools

import jinja2
import pytest

from scripts.demo_training.dialogues import Mix, generate
from scripts.demo_training.text import PLAIN, SPECIAL, ChatFormat, train_tokenizer
from scripts.demo_training.turns import Dialogue


@pytest.fixture(scope="module")
def text() -> ChatFormat:
    corpus = ["My name is Anna. What is 47 + 38?", "The code of the blue door is 4821."] * 50
    return ChatFormat(train_tokenizer(corpus, 400))


def test_added_tokens_are_the_last_of_the_vocabulary_in_order(text: ChatFormat) -> None:
    ids = [text.tokenizer.token_to_id(t) for t in [*SPECIAL, *PLAIN]]
    assert ids == list(range(ids[0], ids[0] + 26))
    assert ids[-1] == text.tokenizer.get_vocab_size() - 1


def test_every_digit_is_a_token(text: ChatFormat) -> None:
    assert len(text.tokenizer.encode("4821").ids) == 4


@pytest.mark.parametrize("sample", ["Grüße, 東京! 🙂\n\n  x\t1", "caf\u00e9", "a<|im_end|>b"])
def test_text_survives_the_round_trip(text: ChatFormat, sample: str) -> None:
    assert text.decode(text.tokenizer.encode(sample).ids) == sample


def test_the_prompt_is_a_prefix_of_the_training_text(text: ChatFormat) -> None:
    for made in itertools.islice(generate(11, Mix()), 300):
        tools = made.tools or None
        prompt = text.prompt(made.messages[:-1], made.thinking, tools=tools)
        sample = text.sample(made)
        assert sample.ids[: len(prompt)] == prompt
        assert sample.learn[len(prompt) - 1 :][:2] == [False, True]
        assert text.decode(sample.ids).endswith("<|im_end|>\n")


def test_learned_tokens_are_the_replies(text: ChatFormat) -> None:
    messages = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "reasoning_content": "gone"},
        {"role": "user", "content": "Three"},
        {"role": "assistant", "content": "Four", "reasoning_content": "why"},
    ]
    sample = text.sample(Dialogue(messages, True, "chat"))
    learned = [i for i, wanted in zip(sample.ids, sample.learn, strict=True) if wanted]
    assert text.decode(learned) == "Two<|im_end|>why\n</think>\n\nFour<|im_end|>"


USER = {"role": "user", "content": "Hi"}


def test_thinking_on_and_off(text: ChatFormat) -> None:
    on = text.render([USER], add_generation_prompt=True)
    off = text.render([USER], add_generation_prompt=True, enable_thinking=False)
    assert on == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert off == on + "\n</think>\n\n"


def test_old_thoughts_are_dropped_from_content_too(text: ChatFormat) -> None:
    old = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}
    assert text.render([USER, old, USER]).count("hm") == 0
    assert text.render([USER, old]).endswith("<think>\nhm\n</think>\n\nHello<|im_end|>\n")


def test_tool_calls_and_results(text: ChatFormat) -> None:
    function = {"name": "f", "arguments": {"a": "x", "n": 2, "flag": True}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": function}] * 2}
    result = {"role": "tool", "content": "ok"}
    out = text.render([USER, call, result, result], tools=[{"name": "f"}])
    block = (
        "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n<parameter=n>\n2\n</parameter>"
        "\n<parameter=flag>\ntrue\n</parameter>\n</function>\n</tool_call>"
    )
    answer = "<tool_response>\nok\n</tool_response>"
    assert f"<think>\n\n</think>\n\n{block}\n{block}<|im_end|>\n" in out
    assert out.endswith(f"<|im_start|>user\n{answer}\n{answer}<|im_end|>\n")
    assert '\n{"name": "f"}\n' in out


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "x"}],
        [USER, {"role": "system", "content": "x"}],
        [USER, {"role": "oracle", "content": "x"}],
        [{"role": "user", "content": [{"type": "image"}]}],
    ],
    ids=["empty", "no user", "late system", "unknown role", "image"],
)
def test_invalid_messages_raise(text: ChatFormat, messages: list) -> None:
    with pytest.raises(jinja2.TemplateError):
        text.render(messages)
