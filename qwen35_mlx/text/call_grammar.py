"""Grammars of tool calls: for each tool, the text of a call with arguments that its schema allows.

The form is Qwen3.5's (`text/tool_call.py`), and what a grammar allows is what `ReplyParser` reads
back as a call: the parameters stand in the order in which the tool declares them, required ones
always, and none that it does not declare. A value is raw text if its schema allows a string,
otherwise JSON on one line. No raw text holds a tag of a call, which might end it elsewhere.
Nor does a string within JSON, unless its schema has a pattern that allows one, or no type.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.json_text import write_json
from qwen35_mlx.text.argument_types import allowed_types
from qwen35_mlx.text.bounded_schema import bounded_in_call
from qwen35_mlx.text.call_tags import is_tag_name
from qwen35_mlx.text.grammar_source import GrammarSource, with_json_options
from qwen35_mlx.text.string_grammar import raw_string


def tool_name(tool: Mapping[str, Any]) -> str:
    """The name of a tool of either shape, see `parameter_schemas`.

    Raises:
        Qwen35Error: it has none, or one that cannot stand in a tag.
    """
    name = _function(tool).get("name")
    if not isinstance(name, str) or not is_tag_name(name):
        raise Qwen35Error(
            f"a tool has the name {shown(name)}, which no call can have: give 1 to 200 characters"
            " without '<', '>' and line breaks"
        )
    return name


def function_grammar(tool: Mapping[str, Any]) -> GrammarSource:
    """The text `<function=NAME>...</function>` of a call, with a line break after each tag.

    Raises:
        Qwen35Error: a name cannot stand in a tag, or a parameter can have no value.
    """
    name = tool_name(tool)
    schema = _function(tool).get("parameters")
    schema = schema if isinstance(schema, Mapping) else {}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    listed = schema.get("required")
    required = listed if isinstance(listed, Sequence) else ()
    if missing := [key for key in required if key not in properties]:
        raise Qwen35Error(
            f"the tool {shown(name)} requires {shown(missing[0])}, which is none of its properties:"
            " describe it there"
        )
    rules, order = [], []
    for index, (key, value) in enumerate(properties.items()):
        if not is_tag_name(key):
            raise Qwen35Error(
                f"the tool {shown(name)} has a parameter {shown(key)}, which no call can have:"
                " give 1 to 200 characters without '<', '>' and line breaks"
            )
        rules += _parameter(f"p{index}", key, value, schema)
        order.append(f"p{index}" if key in required else f"p{index}?")
    body = " ".join([_quoted(f"<function={name}>\n"), *order, _quoted("</function>\n")])
    text = "\n".join([f"start: {body}", *rules])
    return GrammarSource(f"schema of the tool {shown(name)}", {"lark_grammar": text})


def _parameter(rule: str, key: str, schema: object, root: Mapping[str, Any]) -> list[str]:
    """The rules of one parameter, from its opening tag to the line break after the closing one."""
    opened = _quoted(f"<parameter={key}>\n")
    types = allowed_types(schema, root)
    if not types or "string" in types:
        # One token of the lexer with the closing tag: it then ends where the tag does.
        terminal = rule.upper()
        value = raw_string(schema, root, null="null" in types)
        closed = r"/\n<\/parameter>\n/"
        return [f"{rule}: {opened} {terminal}", f"{terminal}: ({value}) {closed}"]
    assert isinstance(schema, Mapping)
    definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
    json = write_json(with_json_options(bounded_in_call({**definitions, **schema})))
    return [f"{rule}: {opened} %json {json} {_quoted(chr(10) + '</parameter>' + chr(10))}"]


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}


def _quoted(text: str) -> str:
    """A literal of Lark."""
    return write_json(text)
