"""The body of a tool call: both formats, missing tags, and types from a schema."""

import json

import pytest

from qwen35_mlx.json_text import write_json
from qwen35_mlx.text.reply import ReplyParser, ToolCall, join_events
from qwen35_mlx.text.tool_call import (
    MAX_DEPTH,
    ParsedCall,
    parameter_schemas,
    parse_call,
)


def body(*lines: str) -> str:
    return "\n" + "\n".join(["<function=f>", *lines]) + "\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two\nlines", "two\nlines"),
        ("\n  indented\n", "\n  indented\n"),
        ("12", "12"),
        ('{"a": 1}', '{"a": 1}'),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("a </parameter> b", "a </parameter> b"),
        ("<function=g></function>", "<function=g></function>"),
    ],
)
def test_a_value_without_a_schema_is_the_text_between_the_newlines(value: str, expected: str):
    text = body("<parameter=a>", value, "</parameter>", "</function>")
    assert parse_call(text, {}) == ParsedCall("f", {"a": expected})


def test_a_call_may_be_on_one_line():
    text = "<function=f><parameter=a>x</parameter><parameter=b>y</parameter></function>"
    assert parse_call(text, {}) == ParsedCall("f", {"a": "x", "b": "y"})


@pytest.mark.parametrize(
    "text",
    [
        body("<parameter=a>", "x", "</parameter>"),
        body("<parameter=a>", "x", "</function>"),
        body("<parameter=a>", "x"),
        body("<parameter=a>", "x </parameter> y"),
        '{"name": "f", "arguments": {"a": "x',
        '{"name": "f", "arguments": {"a": "x \\"',
    ],
)
def test_a_body_without_a_closing_tag_is_none(text: str):
    assert parse_call(text, {}) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<function=>",
        "<function=f",
        body("words"),
        body("</function>", "words"),
        body("<parameter=>", "x", "</parameter>"),
        "{}",
        "{1}",
        '{"name": 1}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "rubbish"}',
        '{"name": "f", "arguments": ' + "[" * 100_000,
    ],
)
def test_a_body_of_neither_format_is_none(text: str):
    assert parse_call(text, {}) is None


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "f"}', {}),
        ('{"name": "f", "arguments": {"a": [1, null]}}', {"a": [1, None]}),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": "raw\nnewline"}}', {"a": "raw\nnewline"}),
    ],
)
def test_the_json_format(text: str, arguments: dict[str, object]):
    assert parse_call(text, {}) == ParsedCall("f", arguments)


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, " x ", " x "),
        ({"type": "integer"}, " 12 ", 12),
        ({"type": "integer"}, "12.0", 12),
        ({"type": "integer"}, "12.5", "12.5"),
        ({"type": "integer"}, "twelve", "twelve"),
        ({"type": "integer"}, "true", "true"),
        ({"type": "number"}, "12", 12),
        ({"type": "number"}, "-1.5e3", -1500.0),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array"}, '{"a": 1}', '{"a": 1}'),
        ({"type": "object"}, '{"a": {"b": []}}', {"a": {"b": []}}),
        ({"type": "object"}, "{'a': 1}", "{'a': 1}"),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": "string"}, "null", "null"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", 3),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "3", "3"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({}, "1", "1"),
        (None, "1", "1"),
        ({"type": 7}, "1", "1"),
        ({"anyOf": 7}, "1", "1"),
    ],
)
def test_a_value_gets_the_type_of_its_schema(schema: object, value: str, expected: object):
    tool = {"name": "f", "parameters": {"properties": {"a": schema}}}
    text = body("<parameter=a>", value, "</parameter>", "</function>")
    for tools in ([tool], [{"type": "function", "function": tool}]):
        parsed = parse_call(text, parameter_schemas(tools))
        assert isinstance(parsed, ParsedCall)
        assert parsed.arguments == {"a": expected}
        assert type(parsed.arguments["a"]) is type(expected)


@pytest.mark.parametrize(
    "tool",
    [
        {},
        {"function": None},
        {"name": "f"},
        {"name": "f", "parameters": None},
        {"name": "f", "parameters": {"properties": 1}},
    ],
)
def test_a_tool_of_another_shape_has_no_schemas(tool: dict[str, object]):
    text = body("<parameter=a>", "1", "</parameter>", "</function>")
    assert parse_call(text, parameter_schemas([tool])) == ParsedCall("f", {"a": "1"})


def test_the_reply_parser_uses_the_tools():
    tools = [{"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}]
    parser = ReplyParser(thinking=False, tools=tools)
    text = body("<parameter=a>", "7", "</parameter>", "</function>")
    (part,) = parser.push(f"<tool_call>{text}</tool_call>")
    assert isinstance(part, ToolCall)
    assert part.arguments == {"a": 7}


def nested(depth: int, inner: str = "") -> str:
    return "[" * depth + inner + "]" * depth


INEXACT = {
    "too deep": nested(MAX_DEPTH),
    "far too deep": nested(900),
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "infinite": "1e999",
    "infinite within": '{"a": [-1e999]}',
    "not a number": "NaN",
    "a constant": "[Infinity]",
    "above 64 bits": str(2**63),
    "below 64 bits": f"[{-(2**63) - 1}]",
    "4,000 digits": "9" * 4000,
    "5,000 digits": "9" * 5000,
    "half a character": r'"\ud800"',
    "half a character in a name": r'{"\udc00": 1}',
}
EXACT = [nested(MAX_DEPTH - 1), "1e308", str(2**63 - 1), str(-(2**63)), r'"\ud83d\ude00"', "[{}]"]


@pytest.mark.parametrize("value", INEXACT.values(), ids=INEXACT)
def test_a_call_that_json_does_not_hold_exactly_is_no_call(value: str):
    arguments = f'{{"a": {value}}}'
    for given in (arguments, json.dumps(arguments)):  # as an object, and as a string of JSON
        assert parse_call(f'{{"name": "f", "arguments": {given}}}', {}) is None
    text = f'<tool_call>{{"name": "f", "arguments": {{"a": {value}}}}}</tool_call>'
    parser = ReplyParser(thinking=False)
    assert join_events([*parser.push(text), *parser.finish()]).text == text


@pytest.mark.parametrize("value", EXACT)
def test_a_call_that_json_holds_exactly_is_a_call(value: str):
    call = parse_call(f'{{"name": "f", "arguments": {{"a": {value}}}}}', {})
    assert isinstance(call, ParsedCall)
    assert json.loads(json.dumps(call.arguments)) == call.arguments == {"a": json.loads(value)}


@pytest.mark.parametrize("value", INEXACT.values(), ids=INEXACT)
def test_a_parameter_that_json_does_not_hold_exactly_stays_its_text(value: str):
    types = ["object", "array", "number", "integer"]
    text = body("<parameter=a>", value, "</parameter>", "</function>")
    assert parse_call(text, {"f": {"a": {"type": types}}}) == ParsedCall("f", {"a": value})


def test_a_large_float_for_an_integer_stays_its_text():
    text = body("<parameter=a>", "1e300", "</parameter>", "</function>")
    assert parse_call(text, {"f": {"a": {"type": "integer"}}}) == ParsedCall("f", {"a": "1e300"})


def test_the_text_of_parsed_json_is_that_of_the_json_module_at_any_depth():
    value = {"a": [1, 2.5, None, True, 'ö\n"'], "": {}, "b": [[], {"c": [{}]}]}
    spaced = (", ", ": ")
    assert write_json(value, separators=spaced) == json.dumps(value, ensure_ascii=False)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep, 1]
    assert write_json(deep, separators=spaced) == "[" * 100_000 + "[]" + ", 1]" * 100_000


def test_tools_of_odd_shapes_have_no_schemas():
    assert parameter_schemas([{"name": []}, {"function": 5}, {"name": "f", "parameters": 5}]) == {
        "f": {}
    }
