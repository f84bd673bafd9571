"""Messages of all interfaces, as chat templates take them."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from qwen35_mlx.errors import shown
from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.server.fields import RequestFields
from qwen35_mlx.text.messages import medium_of
from qwen35_mlx.untrusted_json import parse_json

# Types of content parts that are text.
_TEXT = ("text", "input_text", "output_text")


def text_of(fields: RequestFields, name: str) -> str:
    """The text of a field that holds a string, or a list of parts that are text.

    Parts are joined as in `text.messages`, with nothing between them. A missing field is "".

    Raises:
        ApiError: a part is not text; the line names it.
    """
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise fields.error(name, f"is {shown(value)}: give a string or a list of parts")
    return "".join(
        part if isinstance(part, str) else part_text(fields.item(name, index, part))
        for index, part in enumerate(value)
    )


def part_text(part: RequestFields) -> str:
    """The text of one content part.

    Raises:
        ApiError: it is not text.
    """
    kind = part.get("type")
    source = part.section("source") if kind == "document" else None
    if source is not None and source.get("type") == "text":
        return f"{source.text('data') or ''}\n"  # a file ends with its last line
    if medium_of(part.values):
        raise not_text(part)
    if kind in _TEXT or (kind is None and "text" in part.values):
        return part.text("text") or ""
    if kind == "refusal":
        return part.text("refusal") or ""
    raise not_text(part)


def text_of_reasoning(item: RequestFields) -> str:
    """The text of a reasoning item: its content, else its summary."""
    parts = item.sections("content") or item.sections("summary")
    return "\n".join(part.text("text") or "" for part in parts)


def not_text(part: RequestFields) -> ApiError:
    """The error for a content part that is not text."""
    what = medium_of(part.values) or f"of type {shown(part.get('type'))}"
    return ApiError(f"{part.path} is {what}: the model reads text only", param=part.path)


def call(name: str, arguments: Any, call_id: str | None, fields: RequestFields) -> dict[str, Any]:
    """A tool call of an assistant message.

    Args:
        arguments: an object, or its JSON.
        fields: that the arguments are from, for error lines.

    Raises:
        ApiError: the arguments are neither.
    """
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise fields.error("arguments", f"is not JSON: {error}") from None
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        raise fields.error("arguments", f"is {shown(arguments)}: give a JSON object")
    function = {"name": name, "arguments": dict(arguments)}
    return {"type": "function", "id": call_id, "function": function}


def assistant(
    content: str = "", reasoning: str = "", calls: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """An assistant message.

    `reasoning_content` is always there: without it a template looks for </think> in the content.
    """
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    return message | ({"tool_calls": list(calls)} if calls else {})


def tool_result(content: str, call_id: str | None) -> dict[str, Any]:
    """The result of the call with this id."""
    return {"role": "tool", "content": content, "tool_call_id": call_id}


def in_call_order(messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The messages without ids of calls, and tool results in the order of their calls.

    Templates do not print the ids, so that the model can match results by their order only.
    Results of unknown calls come after those of known ones.
    """
    ordered: list[dict[str, Any]] = []
    places: dict[str | None, int] = {}  # of the calls of the last assistant message
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result:
            results = sorted(group, key=lambda one: places.get(one["tool_call_id"], len(places)))
            ordered += [_without(result, "tool_call_id") for result in results]
            continue
        for message in group:
            calls = message.get("tool_calls", ())
            places = {call["id"]: place for place, call in enumerate(calls)}
            cleaned = {"tool_calls": [_without(call, "id") for call in calls]} if calls else {}
            ordered.append(dict(message) | cleaned)
    return tuple(ordered)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
