"""`/v1/chat/completions` without a network: what requests become, and what replies look like."""

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from qwen35_mlx.server.chat_completions import ChatWriter, read
from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.session.events import Answer, Thinking, ToolCall
from tests.server.fake_engine import done

USER = {"role": "user", "content": "Hi"}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}


def request(**fields):
    return read({"messages": [USER], **fields}).request


def test_options_get_the_names_of_the_library():
    found = request(
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        stop="END",
        top_k=5,
        parallel_tool_calls=False,
        tools=[TOOL],
        tool_choice="required",
        user="ada",
        session="Trip",
    )
    assert dict(found.options) == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
        "top_k": 5,
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    assert found.session == "Trip"


def test_defaults_and_unknown_fields_are_no_options():
    nothing = {
        "n": 1,
        "max_tokens": None,
        "logprobs": False,
        "tool_choice": "auto",
        "frequency_penalty": 0,
    }
    found = request(**nothing, response_format={"type": "text"}, store=True, new_field=[1])
    assert dict(found.options) == {}
    assert found.session is None


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low", "enable_thinking": False}, False),
        ({"reasoning_effort": "none", "enable_thinking": True}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"enable_thinking": True}, True),
    ],
)
def test_thinking_has_several_names(fields, thinking):
    assert dict(request(**fields).options) == {"thinking": thinking}


def test_an_effort_is_thinking_and_left_to_the_template():
    found = request(reasoning_effort="low")
    assert dict(found.options) == {"thinking": True, "reasoning_effort": "low"}


def test_other_template_arguments_stay_apart():
    found = request(chat_template_kwargs={"enable_thinking": True, "preserve_thinking": True})
    assert dict(found.options) == {
        "thinking": True,
        "template_arguments": {"preserve_thinking": True},
    }


def test_history_comes_back_as_templates_take_it():
    """Parts, calls with JSON arguments, and results in another order than the calls."""
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", **call}, {"id": "c2", **call}],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
    ]
    parsed = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert list(read({"messages": messages}).request.messages) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [parsed, parsed],
        },
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"n": 2}, "n is 2: one reply a request is supported; send it again"),
        ({"logprobs": True}, "logprobs is not supported: leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is not supported: leave it out"),
        ({"messages": []}, "messages is empty: give at least one message"),
        ({"messages": "hi"}, "messages is 'hi': give a list of objects"),
        ({"messages": ["hi"]}, "messages[0] is 'hi': give an object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing: give a string"),
        ({"max_tokens": 0}, "max_tokens is 0: give -1 (no limit) or a whole number"),
        ({"max_tokens": True}, "max_tokens is True: give -1 (no limit) or a whole number"),
        ({"stream": "yes"}, "stream is 'yes': give true or false"),
        ({"stop": [1]}, "stop is [1]: give a string or a list of strings"),
        ({"tool_choice": "required"}, "tool_choice requires a call, and there are no tools: add"),
        ({"tool_choice": "some"}, "tool_choice is 'some': give one of auto, none, required"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type is 'custom': tools of type function are"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fields, line):
    with pytest.raises(ApiError) as error:
        request(**fields)
    assert str(error.value).startswith(line)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "is an image"),
        ({"type": "input_audio", "input_audio": {}}, "is audio"),
        ({"type": ["x"]}, "is of type ['x']"),
        ({}, "is of type None"),
    ],
)
def test_parts_that_are_not_text_are_refused(part, what):
    with pytest.raises(ApiError, match="the model reads text only") as error:
        read({"messages": [{"role": "user", "content": [part]}]})
    assert str(error.value).startswith(f"messages[0].content[0] {what}")


def test_arguments_that_are_not_json_are_refused():
    call = {"function": {"name": "f", "arguments": '{"a":'}}
    with pytest.raises(ApiError, match=r"function\.arguments is not JSON"):
        read({"messages": [{"role": "assistant", "tool_calls": [call]}]})


def test_whole_reply():
    writer = ChatWriter("demo", 5)
    events = [Thinking("hm\n"), Answer("Hello "), ToolCall("add", {"a": 1})]
    found = ChatCompletion.model_validate(writer.whole(events, done("tool_calls")))
    message = found.choices[0].message
    assert message.content == "Hello"
    assert message.reasoning_content == "hm"  # type: ignore[attr-defined]
    assert json.loads(message.tool_calls[0].function.arguments) == {"a": 1}  # type: ignore
    assert found.choices[0].finish_reason == "tool_calls"
    assert found.usage is not None
    assert found.usage.prompt_tokens_details.cached_tokens == 12  # type: ignore
    assert found.usage.completion_tokens_details.reasoning_tokens == 3  # type: ignore


def test_a_reply_of_calls_alone_has_no_content():
    found = ChatWriter("demo", 5).whole([ToolCall("add", {})], done("tool_calls"))
    assert found["choices"][0]["message"]["content"] is None


def test_stream_with_usage_at_its_end_only():
    writer = ChatWriter("demo", 5, include_usage=True)
    calls = [ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2})]
    frames = writer.start(None)
    for event in (Thinking("hm"), Answer("Hello"), *calls):
        frames += writer.add(event)
    *frames, end = frames + writer.end(done("length"))
    assert end.data == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate(frame.data) for frame in frames]
    assert {chunk.id for chunk in chunks} == {writer.id}
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert all("usage" in frame.data for frame in frames)  # null, where there is none yet
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "length"
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert deltas[1].reasoning_content == "hm"  # type: ignore[attr-defined]
    assert [call.index for delta in deltas for call in delta.tool_calls or []] == [0, 1]


def test_stream_without_usage():
    frames = ChatWriter("demo", 5).end(done())
    assert [frame.data == "[DONE]" or "usage" in frame.data for frame in frames] == [False, True]
