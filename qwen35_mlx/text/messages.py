"""Messages and tools for a chat template: checked, and copied to plain JSON types.

A template is downloaded code, and its `tojson` needs JSON, so it gets no other types, and nothing
that is nested deeper than `MAX_DEPTH` in the arguments of a call.

Programs write messages in more forms than templates read. One form is given to all templates: the
content is a string, the thinking is `reasoning_content`, and all system messages are one, in front.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import one_line
from qwen35_mlx.text.tool_call import MAX_DEPTH, is_deep

# A message has its list of calls, a call and its function around the arguments.
_MESSAGE_DEPTH = MAX_DEPTH + 4
SYSTEM_ROLES = ("system", "developer")
# Roles whose content may be None: a call or a refusal alone, a tool without a result.
_ROLES_WITHOUT_CONTENT = ("assistant", "tool")
# What is not text, by the types of parts and the names of their values. Templates look for the
# names, too.
_MEDIA = {
    name: medium
    for word, medium in (
        *(("image", "an image"), ("audio", "audio"), ("video", "a video"), ("file", "a file")),
        ("document", "a file"),
    )
    for name in (word, f"{word}_url", f"input_{word}")
}


def plain_messages(messages: Sequence[object]) -> list[dict[str, Any]]:
    """Copies of a conversation's messages, as `plain_message` makes them, for a template.

    Messages of role "system" and "developer" become one of role "system" at the front, wherever
    they stand: their texts in order, with blank lines between. Many templates refuse any other.

    Raises:
        Qwen35Error: as `plain_message`.
    """
    plain = [plain_message(message, index) for index, message in enumerate(messages)]
    text = system_prompt(plain)
    if text is None:
        return plain
    others = [message for message in plain if message["role"] not in SYSTEM_ROLES]
    return [{"role": SYSTEM_ROLES[0], "content": text}, *others]


def system_prompt(plain: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of all system messages among plain ones; None without any."""
    texts = [message["content"] for message in plain if message["role"] in SYSTEM_ROLES]
    if len(texts) > 1:
        return "\n\n".join(text for text in texts if text.strip())
    return texts[0] if texts else None


def plain_message(message: object, index: int) -> dict[str, Any]:
    """A copy of one message in plain JSON types.

    - Content in parts becomes one string, as templates write it.
    - Content that is None, of an assistant or a tool, or is missing beside tool calls or reasoning,
      becomes "".
    - `reasoning` becomes `reasoning_content`, unless that is there as well.
    - The `arguments` of a call become a mapping.

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
    plain = plain_value(message, where)
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise Qwen35Error(f"{where} has no 'role': give 'system', 'user', 'assistant' or 'tool'")
    if plain.get("tool_calls") is not None:
        _parse_call_arguments(plain["tool_calls"], where)
    _name_reasoning(plain, where)
    plain["content"] = _text_content(plain, f"{where} (role {role!r})", where)
    return plain


def _name_reasoning(message: dict[str, Any], where: str) -> None:
    """Turn `reasoning` into `reasoning_content`, in place."""
    reasoning = message.pop("reasoning", None)
    if message.get("reasoning_content") is not None or reasoning is None:
        return
    if not isinstance(reasoning, str):
        raise Qwen35Error(f"{where} has 'reasoning' of type {_type_name(reasoning)}: give a string")
    message["reasoning_content"] = reasoning


def _text_content(message: dict[str, Any], name: str, where: str) -> str:
    """The content of a message as one string.

    Args:
        name, where: of the message, and of its place, in error lines.
    """
    content = message.get("content")
    match content:
        case str():
            return content
        case list():
            return "".join(
                _part_text(part, f"{where}.content[{index}]") for index, part in enumerate(content)
            )
        case None if _may_be_empty(message):
            return ""
        case None:
            raise Qwen35Error(f"{name} has no 'content': give a string")
        case _:
            raise Qwen35Error(
                f"{name} has 'content' of type {_type_name(content)}: give a string or a list of"
                " parts"
            )


def _may_be_empty(message: dict[str, Any]) -> bool:
    """Whether a message may have no content."""
    if message.get("tool_calls") or isinstance(message.get("reasoning_content"), str):
        return True
    return "content" in message and message["role"] in _ROLES_WITHOUT_CONTENT


def _part_text(part: object, where: str) -> str:
    """The text of one part of a content.

    Raises:
        Qwen35Error: it is none of text. A template would write a place for an image, and the model
            would answer about an image that it has not seen.
    """
    if not isinstance(part, dict):
        raise Qwen35Error(
            f"{where} is of type {_type_name(part)}: give {{'type': 'text', 'text': TEXT}}"
        )
    kind = part.get("type", "text")
    if medium := medium_of(part):
        raise Qwen35Error(
            f"{where} is {medium}, and the loaded model reads text only: describe it in words, or"
            " leave it out"
        )
    if kind != "text" or not isinstance(part.get("text"), str):
        raise Qwen35Error(
            f"{where} is a part of type {shown(kind)} without text: give {{'type': 'text',"
            " 'text': TEXT}"
        )
    return part["text"]


def medium_of(part: Mapping[str, Any]) -> str | None:
    """What one part of a content is besides text, such as "an image"; None for nothing."""
    names = [part.get("type"), *(name for name, value in part.items() if value is not None)]
    return next((_MEDIA[name] for name in names if isinstance(name, str) and name in _MEDIA), None)


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
    plain = plain_value(tools, "tools")
    if not isinstance(plain, list) or not all(isinstance(tool, dict) for tool in plain):
        raise Qwen35Error("tools is not a list of mappings: give a list of JSON schemas")
    return plain


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a template's arguments in plain JSON types.

    Raises:
        Qwen35Error: they hold other types than JSON has, or are nested too deep.
    """
    return {n: plain_value(value, f"the template argument {n}") for n, value in arguments.items()}


def plain_value(value: Any, where: str, depth: int = _MESSAGE_DEPTH) -> Any:
    """A deep copy in plain JSON types. `where` names the value in error lines.

    Args:
        depth: how many lists and mappings may be within each other. A value that contains itself
            has more than any number.

    Raises:
        Qwen35Error: it holds other types than JSON has, or is nested too deep.
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
        return {
            str(key): plain_value(item, f"{where}.{key}", depth - 1) for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [
            plain_value(item, f"{where}[{index}]", depth - 1) for index, item in enumerate(value)
        ]
    raise Qwen35Error(
        f"{where} is of type {_type_name(value)}: give strings, numbers, lists and mappings"
    )


def _type_name(value: object) -> str:
    return type(value).__name__
