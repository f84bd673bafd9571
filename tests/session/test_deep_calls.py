"""Tool calls nested without end block no conversation: from the model, the library or a caller."""

from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done
from qwen35_mlx.text.tool_call import MAX_DEPTH
from tests.session.scripted import reply_with

HI: dict[str, Any] = {"role": "user", "content": "Hello"}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def call(value: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": {"a": value}}}


def done_of(events) -> Done:
    *_, last = events
    assert isinstance(last, Done)
    return last


def test_a_reply_with_a_deep_call_is_text_and_the_next_turns_go_on(model, monkeypatch, tmp_path):
    value = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    text = f'<tool_call>{{"name": "f", "arguments": {{"a": {value}}}}}</tool_call>'
    monkeypatch.setattr(model, "context", 10_000)
    monkeypatch.setattr(model._prompts, "_context", 10_000)
    with Library(tmp_path) as library, Chat(model, library=library) as chat:
        reply_with(monkeypatch, model, text)
        done = done_of(chat.send("Hello"))
        assert (done.finish_reason, done.message["content"]) == ("stop", text)
        reply_with(monkeypatch, model, "Fine.")
        assert done_of(chat.send("And now?")).message["content"] == "Fine."
        assert done_of(chat.retry()).message["content"] == "Fine."


@pytest.mark.parametrize("depth", [MAX_DEPTH, 600])
def test_a_deep_call_that_an_earlier_version_stored_is_rendered_as_text(
    model, monkeypatch, tmp_path, depth
):
    monkeypatch.setattr(model, "context", 10_000)
    monkeypatch.setattr(model._prompts, "_context", 10_000)
    with Library(tmp_path) as library:
        number = library.create()
        asked = library.add_message(number, Message(0, None, "user", "Hello"))
        calls = (call(nested(depth)),)
        reply = Message(0, asked.id, "assistant", "Well.", tool_calls=calls)
        library.add_message(number, reply)
    with Library(tmp_path) as library, Chat(model, library=library, conversation=number) as chat:
        assert chat.context_used > depth // 50
        assert done_of(chat.send("And now?", max_tokens=3)).usage.prompt_tokens
        assert chat.messages[1].tool_calls == calls  # stored as it was
        content = chat.messages[1].for_template()["content"]
        assert content.startswith('Well.\n\n<tool_call>\n{"name": "f", "arguments": {"a": [[')
        assert content.count("[") == depth


def test_a_call_of_the_greatest_depth_is_rendered_as_a_call():
    stored = Message(1, None, "assistant", "", tool_calls=(call(nested(MAX_DEPTH - 1)),))
    assert "tool_calls" in stored.for_template()


def cyclic() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


@pytest.mark.parametrize("value", [nested(MAX_DEPTH + 4), nested(5000), cyclic()])
def test_callers_get_one_line_for_deep_and_cyclic_values(model, value):
    for messages, tools in [
        ([{"role": "assistant", "content": "", "tool_calls": [call(value)]}], None),
        ([HI], [{"name": "f", "parameters": {"properties": {"a": [value] * 9}}}]),
        ([{"role": "user", "content": [{"type": "text", "text": [value]}]}], None),
    ]:
        with pytest.raises(Qwen35Error, match="deep") as caught:
            model.render([*messages, HI], tools=tools)
        assert len(str(caught.value)) < 250
        assert "\n" not in str(caught.value)


def test_callers_get_one_line_for_deep_arguments_in_a_string(model):
    deep = {"name": "f", "arguments": '{"a": ' + "[" * 300 + "]" * 300 + "}"}
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": deep}]}
    with pytest.raises(Qwen35Error, match="more than 64 deep"):
        model.render([HI, message, HI])
