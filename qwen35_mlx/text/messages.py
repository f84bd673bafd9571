"""Messages and tools for a chat template: checked, and copied to plain JSON types.

A template is downloaded code, and its `tojson` needs JSON, so it gets no other types, and nothing
that is nested deeper than `MAX_DEPTH` in the arguments of a call.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.text.tool_call import MAX_DEPTH, is_deep

# A message has its list of calls, a call and its function around the arguments.
_MESSAGE_DEPTH = MAX_DEPTH + 4


def plain_message(message: object, index: int) -> dict[str, Any]:
    """A copy of one message in plain JSON types.

    Missing content beside tool calls or reasoning becomes ""; the `arguments` of a call become a
    mapping.

    Args:
        index: of the message in the conversation, for error lines.

    Raises:
        Qwen35Error: the message is not what a chat template takes, or is nested too deep.
    """
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise Qwen35Error(
            f"{where} is of type {_type_name(message)}: give a mapping with 'role' and 'content'"
        )
    plain = _plain(message, where)
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise Qwen35Error(f"{where} has no 'role': give 'system', 'user', 'assistant' or 'tool'")
    if plain.get("tool_calls") is not None:
        _parse_call_arguments(plain["tool_calls"], where)
    content = plain.get("content")
    if content is None:
        if not plain.get("tool_calls") and not isinstance(plain.get("reasoning_content"), str):
            raise Qwen35Error(f"{where} (role {role!r}) has no 'content': give a string")
        plain["content"] = ""
    elif not isinstance(content, str | list):
        raise Qwen35Error(
            f"{where} (role {role!r}) has 'content' of type {_type_name(content)}: give a string or"
            " a list of parts"
        )
    return plain


def _parse_call_arguments(calls: object, where: str) -> None:
    """Turn the `arguments` of every call into a mapping, in place."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Qwen35Error(f"{where} has 'tool_calls' that are not a list of mappings: give a list")
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Qwen35Error(f"{where} has a tool call without a function 'name': add it")
        function["arguments"] = _parsed_arguments(
            function.get("arguments"), function["name"], where
        )


def _parsed_arguments(arguments: object, name: str, where: str) -> dict[str, Any]:
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise Qwen35Error(
                f"{where}: the arguments of {name!r} are not JSON ({one_line(error)}): give a"
                " JSON object"
            ) from error
    if not isinstance(arguments, dict):
        raise Qwen35Error(
            f"{where}: the arguments of {name!r} are of type {_type_name(arguments)}: give a JSON"
            " object"
        )
    if is_deep(arguments, MAX_DEPTH):
        raise Qwen35Error(
            f"{where}: the arguments of {name!r} are nested more than {MAX_DEPTH} deep: make them"
            " flatter"
        )
    return arguments


def plain_tools(tools: object) -> list[Any]:
    """A copy of the tools' JSON schemas in plain JSON types.

    Raises:
        Qwen35Error: they are no list of mappings, hold other types than JSON has, or are nested too
            deep.
    """
    plain = _plain(tools, "tools")
    if not isinstance(plain, list) or not all(isinstance(tool, dict) for tool in plain):
        raise Qwen35Error("tools is not a list of mappings: give a list of JSON schemas")
    return plain


def _plain(value: Any, where: str, depth: int = _MESSAGE_DEPTH) -> Any:
    """A deep copy in plain JSON types. `where` names the value in error lines.

    Args:
        depth: how many lists and mappings may be within each other. A value that contains itself
            has more than any number.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if not depth and isinstance(value, Mapping | Sequence):
        raise Qwen35Error(
            f"{where[:60]}... is nested too deep, or contains itself: give at most"
            f" {_MESSAGE_DEPTH} lists and mappings within each other"
        )
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}", depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(item, f"{where}[{index}]", depth - 1) for index, item in enumerate(value)]
    raise Qwen35Error(
        f"{where} is of type {_type_name(value)}: give strings, numbers, lists and mappings"
    )


def _type_name(value: object) -> str:
    return type(value).__name__
