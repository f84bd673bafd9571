"""What a reply is bound to, by its options `response_format`, `tool_choice` and so on."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.text.call_grammar import tool_name
from qwen35_mlx.text.grammar_source import GrammarSource, json_schema, lark, regex
from qwen35_mlx.text.reply_grammar import ReplyContent

_TYPES = "'text', 'json_object', 'json_schema', 'regex' or 'grammar'"


def reply_content(options: ReplyOptions) -> ReplyContent | None:
    """What follows the thinking of a reply; None where it is free.

    Raises:
        Qwen35Error: the options are not in the form of `ReplyArguments`, or there is no tool for
            the call that they force.
    """
    answer, tools = answer_grammar(options.response_format), options.tools or ()
    several = options.parallel_tool_calls is not False
    match options.tool_choice:
        case "none":
            return ReplyContent(answer) if answer or tools else None
        case "required":
            if not tools:
                raise Qwen35Error("tool_choice is 'required', and there are no tools: give some")
            return ReplyContent(None, tools, several)
        case Mapping() as choice:
            return ReplyContent(None, [_named(choice, tools)], several=False)
        case _:
            return ReplyContent(answer, tools or None, several) if answer else None


def answer_grammar(response_format: Mapping[str, Any] | None) -> GrammarSource | None:
    """The grammar of an answer; None for any text.

    Raises:
        Qwen35Error: it has another type than those that there are, or lacks a value.
    """
    given: Mapping[str, Any] = {"type": "text"} if response_format is None else response_format
    match given.get("type"):
        case "text":
            return None
        case "json_object":
            return json_schema({"type": "object"})
        case "json_schema":
            inner = given.get("json_schema", given)
            return json_schema(_value(inner, "schema", Mapping, "a JSON schema"))
        case "regex":
            return regex(_value(given, "pattern", str, "a string"))
        case "grammar":
            return lark(_value(given, "grammar", str, "a string"))
        case other:
            raise Qwen35Error(f"response_format has the type {shown(other)}: give {_TYPES}")


def _value(given: object, key: str, kind: type, wanted: str) -> Any:
    value = given.get(key) if isinstance(given, Mapping) else None
    if not isinstance(value, kind):
        raise Qwen35Error(f"response_format has {shown(value)} as its '{key}': give {wanted}")
    return value


def _named(choice: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The tool that a choice names, in OpenAI's form with or without an inner mapping."""
    inner = choice.get("function", choice)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if choice.get("type", "function") != "function" or not isinstance(name, str):
        raise Qwen35Error(
            f"tool_choice is {shown(choice)}: give 'auto', 'none', 'required' or "
            "{'type': 'function', 'function': {'name': ...}}"
        )
    for tool in tools:
        if tool_name(tool) == name:
            return tool
    known = ", ".join(tool_name(tool) for tool in tools) or "there are none"
    raise Qwen35Error(f"tool_choice names {shown(name)}, which is not among the tools: {known}")
