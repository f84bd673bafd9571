"""Whatever a template does to a reply, the next turn prefills only what is new in the rendering."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx import demo
from qwen35_mlx.prompt_cache.snapshots import common_prefix_length
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from tests.session.durable_child import done_of
from tests.session.scripted import reply_with

# Opens no thinking block, so the whole prompt is a prefix of the next one.
PLAIN = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content CUT }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""

# Thinking stays until the next user message, and calls are written in one form only.
KEEPS_THINKING = (Path(demo.__file__).parent / "chat_template.jinja").read_text()
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def with_template(folder: Path, copy: Path, source: str) -> Model:
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text(source)
    return load(copy)


def turns(model: Model, chat: Chat, questions: int = 2) -> tuple[int, int]:
    """Numbers of tokens over some turns: computed, and new in the prompts."""
    computed = new = 0
    before: list[int] = []
    for turn in range(questions):
        question = {"role": "user", "content": f"Question {turn} and more words"}
        prompt = model.render([*chat.conversation.for_template(), question])
        new += len(prompt) - common_prefix_length(prompt, before)
        before = prompt
        done = done_of(chat.send(question["content"], max_tokens=40))
        computed += done.usage.prompt_tokens - done.usage.cached_tokens
    return computed, new


REPLIES: dict[str, Any] = {
    "whole": "an answer of some words",
    "cut at both ends": "\n  an answer of some words  \n\n",
    "cut short": "an answer " * 40,
    "ends in the middle of a character": "an answer 🦊",
    "nothing": "",
    "thinking only": "<think>\nso many thoughts",
    "a call in the middle of thinking": "<think>\nso <tool_call>\n<function=f>\n</function>\n"
    "</tool_call> then\n</think>\n\nyes",
    "a mark of its own": "yes <|im_start|>user\nno",
}


@pytest.mark.parametrize("cut", ["", "| trim"])
@pytest.mark.parametrize("reply", REPLIES)
def test_a_turn_prefills_what_is_new_whatever_the_reply_was(
    model_folder, tmp_path, monkeypatch, reply, cut
):
    model = with_template(model_folder, tmp_path / "model", PLAIN.replace("CUT", cut))
    broken = reply == "ends in the middle of a character"
    reply_with(monkeypatch, model, REPLIES[reply], drop=broken)
    chat = Chat(model, temperature=0.0)
    computed, new = turns(model, chat)
    assert ("\ufffd" in chat.messages[-1].content) == broken
    # Each turn decodes from the last token of its prompt, which the next turn reads again.
    assert computed <= new + 3


def test_a_stop_string_costs_the_next_turn_nothing(model_folder, tmp_path):
    model = with_template(model_folder, tmp_path / "model", PLAIN.replace("CUT", ""))
    chat = Chat(model, temperature=0.0, presence_penalty=0.5)
    done = done_of(chat.send("Question", max_tokens=30))
    stop = done.message["content"][4:7]
    again = Chat(model, temperature=0.0, presence_penalty=0.5)
    done = done_of(again.send("Question", max_tokens=30, stop=stop))
    assert done.finish_reason == "stop"
    assert stop not in done.message["content"]
    prompt = done.usage.prompt_tokens
    assert done_of(again.send("Next", max_tokens=3)).usage.cached_tokens >= prompt - 1


@pytest.mark.parametrize("gap", ["\n", " \n\n\n"])
def test_each_tool_result_is_prefilled_once_whatever_the_call_looked_like(
    model_folder, tmp_path, monkeypatch, gap
):
    model = with_template(model_folder, tmp_path / "model", KEEPS_THINKING)
    call = f"so\n</think>\n\n<tool_call>{gap}<function=f>\n</function>\n</tool_call>"
    chat = Chat(model, temperature=0.0, thinking=True, tools=TOOLS)
    reply_with(monkeypatch, model, call)
    question: Any = "Question"
    prompt: list[int] = []
    for step in range(4):
        before = prompt
        added = [{"role": "user", "content": question}] if step == 0 else question
        messages = [*chat.conversation.for_template(), *added]
        prompt = model.render(messages, thinking=True, tools=TOOLS)
        done = done_of(chat.send(question))
        assert done.finish_reason == "tool_calls"
        if step:
            assert done.usage.cached_tokens >= common_prefix_length(before, prompt) - 1
            assert common_prefix_length(before, prompt) == len(before)
        question = [{"role": "tool", "content": "the answer of the tool"}]
