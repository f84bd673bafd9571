"""Schemas and forced calls with the official clients, on a real server with the demo model."""

import json
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer"},
        "unit": {"enum": ["none", "metres"]},
    },
    "required": ["sum", "unit"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
ASK: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]


class Sum(pydantic.BaseModel):
    sum: int
    unit: Literal["none", "metres"]


def test_a_schema_in_each_interface(client, claude):
    quiet = {"enable_thinking": False}
    chat = client.chat.completions.create(
        model="demo",
        messages=ASK,
        max_tokens=60,
        extra_body=quiet,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    )
    response = client.responses.create(
        model="demo",
        input="What is 17 + 25?",
        max_output_tokens=60,
        reasoning={"effort": "none"},
        text={"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
    )
    message = claude.messages.create(
        model="demo",
        messages=ASK,
        max_tokens=60,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    for text in (chat.choices[0].message.content, response.output_text, message.content[0].text):
        jsonschema.validate(json.loads(text), SCHEMA)


def test_the_client_parses_its_own_types(client):
    found = client.chat.completions.parse(
        model="demo",
        messages=ASK,
        max_tokens=60,
        response_format=Sum,
        extra_body={"enable_thinking": False},
    )
    assert isinstance(found.choices[0].message.parsed, Sum)


def test_a_forced_call_and_its_result(client, claude):
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
    quiet = {"enable_thinking": False}
    with client.chat.completions.stream(
        model="demo",
        messages=ASK,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=120,
        extra_body=quiet,
    ) as stream:
        for _event in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    more = [*ASK, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
    answer = client.chat.completions.create(
        model="demo", messages=more, tools=tools, max_tokens=5, extra_body=quiet
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    named = client.responses.create(
        model="demo",
        input="What is 17 + 25?",
        tools=[{"type": "function", "name": "add", "parameters": PARAMETERS}],
        tool_choice={"type": "function", "name": "add"},
        max_output_tokens=120,
        reasoning={"effort": "none"},
    )
    assert [item.type for item in named.output] == ["function_call"]
    forced = claude.messages.create(
        model="demo",
        messages=ASK,
        tools=[{"name": "add", "input_schema": PARAMETERS}],
        tool_choice={"type": "tool", "name": "add"},
        max_tokens=120,
    )
    assert forced.stop_reason == "tool_use"
    jsonschema.validate(forced.content[-1].input, PARAMETERS)


def test_a_schema_that_cannot_be_held_is_refused(client):
    schema = {"type": "object", "properties": {"a": {"type": "wrong"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="demo",
            messages=ASK,
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        )
