"""The options of a reply: one list of names, checked alike by every call that takes them."""

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling_parameters import LIMITS, RANGES, Sampling
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.prompt_cache.snapshots import common_prefix_length
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.chat_settings import turn_options
from qwen35_mlx.session.events import Done
from qwen35_mlx.session.reply_options import (
    EFFORT,
    CompletionArguments,
    PromptArguments,
    ReplyArguments,
    ReplyOptions,
    SamplingArguments,
)

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}


def test_every_argument_is_a_field_and_every_field_an_argument():
    # The effort becomes a template argument.
    names = get_type_hints(ReplyArguments).keys() - {*RANGES, EFFORT} | {"sampling"}
    assert names == {field.name for field in fields(ReplyOptions)}
    assert get_type_hints(SamplingArguments).keys() == {field.name for field in fields(Sampling)}


@pytest.mark.parametrize("call", ["stream", "generate", "complete", "render", "ids", "count"])
def test_an_unknown_option_of_a_model_is_named(model, call):
    prompt = "Hi" if call == "complete" else HI
    with pytest.raises(Qwen35Error, match=r"'max_token' is not an option here"):
        getattr(model, call)(prompt, max_token=5)


@pytest.mark.parametrize("call", [lambda c: c.send("x", heat=1), lambda c: c.retry(heat=1)])
def test_an_unknown_option_of_a_chat_is_named_and_nothing_is_added(model, call):
    chat = Chat(model)
    list(chat.send("Hi", max_tokens=1))
    before = chat.conversation
    with pytest.raises(Qwen35Error, match="'heat' is not an option here"):
        call(chat)
    assert chat.conversation == before
    with pytest.raises(Qwen35Error, match="'seed' is not an option here"):
        Chat(model, seed=5)  # type: ignore[call-arg]


def test_minus_one_lifts_every_limit_and_none_keeps_that_of_a_chat():
    kept = ChatSettings(max_tokens=5, thinking_budget=3)
    for given, limits in (({}, (5, 3)), (dict.fromkeys(LIMITS, -1), (-1, -1))):
        turn = turn_options(kept, None, ReplyOptions.of(given))
        assert (turn.max_tokens, turn.thinking_budget) == limits
    assert ReplyOptions.of({"max_tokens": -1}).length(7) == 7
    assert ReplyOptions().length(7) == 7
    assert [ReplyOptions(max_tokens=limit).length(7) for limit in (5, 9)] == [5, 7]
    with pytest.raises(Qwen35Error, match=r"max_tokens is -2: give -1 \(no limit\) or a whole num"):
        ReplyOptions.of({"max_tokens": -2})


def test_a_completion_has_no_prompt_to_think_or_call_tools_in(model):
    with pytest.raises(Qwen35Error, match="'thinking' is not an option here"):
        model.complete("Hi", thinking=True)
    with pytest.raises(Qwen35Error, match=r"'seed' is not an option here: .*thinking, tools are"):
        ReplyOptions.of({"seed": 5}, PromptArguments)
    assert get_type_hints(CompletionArguments).keys() <= get_type_hints(ReplyArguments).keys()


def test_values_are_checked_before_they_reach_a_model():
    with pytest.raises(Qwen35Error, match="temperature is 700: give a number from 0 to below 100"):
        ReplyOptions.of({"temperature": 700})
    with pytest.raises(Qwen35Error, match="stop is None"):
        ReplyOptions.of({"stop": None})
    options = ReplyOptions.of({"stop": "x", "top_k": 5, "min_p": None})
    assert options == ReplyOptions(stop=("x",), sampling={"top_k": 5, "min_p": None})


def test_options_of_a_turn_replace_those_of_the_chat():
    kept = ChatSettings(max_tokens=9, seed=3, thinking=True, sampling={"top_p": 0.5, "top_k": 4})
    assert turn_options(kept, [TOOL], ReplyOptions()) == ReplyOptions(
        max_tokens=9, seed=3, thinking=True, tools=[TOOL], sampling={"top_p": 0.5, "top_k": 4}
    )
    given = ReplyOptions(max_tokens=1, thinking=False, tools=[], sampling={"top_p": 1.0})
    assert turn_options(kept, [TOOL], given) == ReplyOptions(
        max_tokens=1, seed=3, thinking=False, tools=[], sampling={"top_p": 1.0, "top_k": 4}
    )


def test_a_turn_of_a_chat_takes_the_options_of_a_stream(model):
    """The prompt, the anchors and the draws of one turn differ from the chat's own."""
    options: dict[str, Any] = {"thinking": True, "tools": [TOOL], "seed": 5, "max_tokens": 6}
    options |= {"temperature": 1.5, "top_k": 0, "top_p": 1.0}
    chat = Chat(model, thinking=False, temperature=0.0)
    *_, done = chat.send("Hi", **options)
    assert isinstance(done, Done)
    assert done.usage.prompt_tokens == model.count(HI, thinking=True, tools=[TOOL])
    assert done.message["content"] == model.generate(HI, **options).text
    assert chat.settings == ChatSettings(thinking=False, sampling={"temperature": 0.0})
    *_, again = chat.retry(**options)
    assert isinstance(again, Done)
    prompt, later = (
        model.ids(messages, thinking=True, tools=[TOOL])
        for messages in (HI, [*HI, {"role": "assistant", "content": "."}, *HI])
    )
    assert again.usage.cached_tokens == common_prefix_length(prompt, later) > len(prompt) // 2
    assert again.message == done.message
