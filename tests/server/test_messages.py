"""`/v1/messages` without a network."""

from dataclasses import replace
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.server.messages import MessageWriter, read
from qwen35_mlx.session.changing_lines import without_changing_lines
from qwen35_mlx.session.events import Answer, PrefillProgress, Thinking, ToolCall
from qwen35_mlx.text.messages import plain_messages
from tests.server.fake_engine import done

USER = {"role": "user", "content": "Hi"}
TOOL = {"name": "add", "input_schema": {"type": "object"}}
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def options(**fields):
    return dict(read({"messages": [USER], **fields}).request.options)


def test_options_get_the_names_of_the_library():
    found = options(
        max_tokens=9,
        temperature=0.5,
        stop_sequences=["END"],
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={
            "format": {"type": "json_schema", "schema": {"type": "object"}},
            "effort": "low",
        },
    )
    assert found == {
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["END"],
        "thinking": True,
        "thinking_budget": 1024,
        "reasoning_effort": "low",
        "tools": [
            {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": {"type": "object"}},
        },
    }


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, {"thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"thinking": False}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"enable_thinking": True}, {"thinking": True}),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"thinking": True}),
        ({"thinking_budget": 9}, {"thinking": True, "thinking_budget": 9}),
        (
            {"enable_thinking": False, "thinking_budget": 9},
            {"thinking": False, "thinking_budget": 9},
        ),
        ({"enable_thinking": True, "thinking": {"type": "disabled"}}, {"thinking": False}),
    ],
)
def test_thinking_is_off_unless_it_is_wanted(fields, found):
    assert options(**fields) == found


def test_history_comes_back_as_templates_take_it():
    """Thinking, calls, and results that share a user message with a text."""
    messages = [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
                {"type": "tool_use", "id": "t2", "name": "add", "input": {"a": 2}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t2", "content": "two"},
                {"type": "text", "text": "Go on."},
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "one"}],
                },
            ],
        },
    ]
    calls = [
        {"type": "function", "function": {"name": "add", "arguments": {"a": value}}}
        for value in (1, 2)
    ]
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    request = read({"messages": messages, "system": system}).request
    assert list(request.messages) == [
        {"role": "system", "content": "Be brief."},
        USER,
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": calls,
        },
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "user", "content": "Go on."},
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"messages": []}, "messages is empty: give at least one message"),
        (
            {"messages": [USER, {"role": "assistant", "content": "The"}]},
            "messages[1].role is assistant: a reply cannot be continued",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        ({"thread": {"type": "create"}}, "thread is not supported, since messages are not kept"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0] is an image: the model reads text only",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type is 'web_se"),
        ({"tool_choice": {"type": "any"}}, "tool_choice requires a call, and there are no tools"),
        ({"stop_sequences": [1]}, "stop_sequences is [1]: give a string or a list of strings"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fields, line):
    with pytest.raises(ApiError) as error:
        options(**fields)
    assert str(error.value).startswith(line)


def test_a_document_of_text_is_text():
    source = {"type": "text", "media_type": "text/plain", "data": "A file."}
    content = [{"type": "document", "source": source}, {"type": "text", "text": "Sum it up."}]
    request = read({"messages": [{"role": "user", "content": content}]}).request
    assert request.messages[0]["content"] == "A file.\nSum it up."


def test_blocks_are_joined_as_the_library_joins_parts():
    content = [{"type": "text", "text": "a", "image": None}, {"type": "text", "text": "b"}]
    request = read({"messages": [{"role": "user", "content": content}]}).request
    plain = plain_messages([{"role": "user", "content": content}])
    assert request.messages[0]["content"] == plain[0]["content"] == "ab"


def test_blocks_of_a_system_prompt_are_paragraphs():
    """Also where the first is a header that changes with every request, and is left out later."""
    header = "x-anthropic-billing-header: cc_version=2.1.15; cch=00af1;"
    blocks = [{"type": "text", "text": text} for text in (header, "You are brief.", "", "Today.")]
    later = {"role": "system", "content": blocks[1:]}
    found = read({"messages": [USER, later, USER], "system": blocks}).request.messages
    assert found[0]["content"] == f"{header}\n\nYou are brief.\n\nToday."
    assert found[2]["content"] == "You are brief.\n\nToday."
    kept = without_changing_lines(found)
    assert kept[0] == {"role": "system", "content": "You are brief.\n\nToday."}
    only = read({"messages": [USER], "system": blocks[:1]}).request.messages
    assert without_changing_lines(only) == [USER]


def test_an_image_beside_a_text_is_not_dropped():
    part = {"type": "text", "text": "what?", "image": "a.png"}
    with pytest.raises(ApiError, match="is an image: the model reads text only"):
        read({"messages": [{"role": "user", "content": [part]}]})


def test_whole_reply():
    events = [Thinking("hm\n"), Answer("Hello\n"), ToolCall("add", {"a": 1})]
    found = Message.model_validate(MessageWriter("m", 5).whole(events, done("tool_calls")))
    assert [block.type for block in found.content] == ["thinking", "text", "tool_use"]
    assert found.content[1].text == "Hello"  # type: ignore[union-attr]
    assert found.content[2].input == {"a": 1}  # type: ignore[union-attr]
    assert found.stop_reason == "tool_use"
    assert (found.usage.input_tokens, found.usage.cache_read_input_tokens) == (8, 12)
    assert found.usage.output_tokens_details.thinking_tokens == 3  # type: ignore[union-attr]


def test_stream_has_the_frames_of_the_interface_in_order():
    writer = MessageWriter("m", 5)
    frames = writer.start(PrefillProgress(12, 20, 12))
    for event in (Thinking("h"), Thinking("m"), Answer("Hello"), ToolCall("f", {"a": 1})):
        frames += writer.add(event)
    frames += writer.end(done("length"))
    found = [EVENTS.validate_python(frame.data) for frame in frames]
    assert [frame.event for frame in frames] == [event.type for event in found]
    deltas = [event for event in found if event.type == "content_block_delta"]
    assert [(event.index, event.delta.type) for event in deltas] == [
        *((0, "thinking_delta"), (0, "thinking_delta"), (0, "signature_delta")),
        *((1, "text_delta"), (2, "input_json_delta")),
    ]
    begun = [event.index for event in found if event.type == "content_block_start"]
    ended = [event.index for event in found if event.type == "content_block_stop"]
    assert begun == ended == [0, 1, 2]
    assert found[0].message.usage.cache_read_input_tokens == 12
    assert (found[-2].delta.stop_reason, found[-2].usage.output_tokens) == ("max_tokens", 5)
    assert found[-1].type == "message_stop"


def test_a_stop_string_is_named():
    ended = replace(done(), stop="END")
    frames = MessageWriter("m", 5).end(ended)
    assert frames[0].data["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}  # type: ignore[index]
