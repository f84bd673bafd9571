"""`/v1/responses` without a network."""

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.server.response_input import read
from qwen35_mlx.server.response_output import ResponseWriter
from qwen35_mlx.session.events import Answer, Thinking, ToolCall
from tests.server.fake_engine import done

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def writer(**fields: Any) -> ResponseWriter:
    made = read({"input": "Hi", **fields}).writer("demo", 5)
    assert isinstance(made, ResponseWriter)
    return made


def test_a_text_and_instructions_are_messages():
    request = read({"input": "Hi", "instructions": "Be brief."}).request
    assert list(request.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_options_are_nested_as_in_chat_completions():
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    request = read(
        {
            "input": "Hi",
            "max_output_tokens": 7,
            "reasoning": {"effort": "none"},
            "text": {"format": schema},
            "tools": [TOOL],
            "tool_choice": {"type": "function", "name": "add"},
        }
    ).request
    assert dict(request.options) == {
        "max_tokens": 7,
        "thinking": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "tools": [
            {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
    }


def test_items_of_one_reply_become_one_message():
    """Its reasoning, text and calls; the next reply begins another one."""
    reasoning = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    call = {"type": "function_call", "name": "add", "arguments": '{"a": 1}'}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        reasoning,
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
        {**call, "call_id": "c1"},
        {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Thanks"},
    ]
    parsed = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert list(read({"input": items}).request.messages) == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": [parsed, parsed],
        },
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "3", "reasoning_content": "so"},
        {"role": "user", "content": "Thanks"},
    ]


def test_replies_that_follow_each_other_stay_apart():
    """As after a reply that was cut: what belongs to the second one begins with its reasoning."""
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    said = {"role": "assistant", "content": "Hello"}
    messages = read({"input": [thought, said, thought, said, said]}).request.messages
    assert [(one["reasoning_content"], one["content"]) for one in messages] == [
        *(("hm", "Hello"), ("hm", "Hello"), ("", "Hello"))
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id is not supported: responses"),
        ({"background": True}, "background is not supported: leave it out"),
        ({"input": []}, "input is empty: give a string or a list of items"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type is 'item_reference'"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type is 'mcp': tools of type function"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role is 'tool': give system"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0] is an image: the model reads text only",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fields, line):
    with pytest.raises(ApiError) as error:
        read({"input": "Hi", **fields})
    assert str(error.value).startswith(line)


def test_whole_reply():
    made = writer(tools=[TOOL], temperature=0.5)
    events = [Thinking("hm\n"), Answer("Hello"), ToolCall("add", {"a": 1})]
    found = Response.model_validate(made.whole(events, done("tool_calls")))
    assert [item.type for item in found.output] == ["reasoning", "message", "function_call"]
    assert found.output_text == "Hello"
    assert found.status == "completed"
    assert found.temperature == 0.5
    assert found.usage is not None
    assert found.usage.input_tokens_details.cached_tokens == 12
    assert found.usage.output_tokens_details.reasoning_tokens == 3


def test_a_search_of_the_web_is_left_out_and_the_response_says_so():
    made = writer(tools=[{"type": "web_search_preview"}, TOOL])
    found = made.whole([Answer("Hello")], done())
    assert [tool["type"] for tool in found["tools"]] == ["function"]


def test_stream_has_the_frames_of_the_interface_in_order():
    made = writer()
    frames = made.start(None)
    for event in (Thinking("h"), Thinking("m"), Answer("Hel"), Answer("lo"), ToolCall("f", {})):
        frames += made.add(event)
    frames += made.end(done("tool_calls"))
    found = [EVENTS.validate_python(frame.data) for frame in frames]
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert [frame.event for frame in frames] == [event.type for event in found]
    assert [event.type.removeprefix("response.") for event in found] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        "output_item.added",
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert found[-1].response.output_text == "Hello"


def test_a_reply_that_is_cut_is_incomplete():
    made = writer()
    frames = made.start(None) + made.add(Answer("Hel")) + made.end(done("length"))
    last = EVENTS.validate_python(frames[-1].data)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"


def test_an_error_in_a_stream_is_a_failed_response():
    made = writer()
    frames = made.start(None) + made.fail(ApiError("no memory", 500))
    last = EVENTS.validate_python(frames[-1].data)
    assert (last.type, last.response.error.message) == ("response.failed", "no memory")
