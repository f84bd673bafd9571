"""Messages of all interfaces, as chat templates take them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from operator import itemgetter
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
    return "".join(_texts(fields, name))


def paragraphs_of(fields: RequestFields, name: str) -> str:
    """As `text_of`, of parts that are paragraphs: with an empty line between them."""
    return "\n\n".join(filter(None, _texts(fields, name)))


def _texts(fields: RequestFields, name: str) -> list[str]:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return [value or ""]
    if not isinstance(value, list):
        raise fields.error(name, f"is {shown(value)}: give a string or a list of parts")
    return [
        part if isinstance(part, str) else part_text(fields.item(name, index, part))
        for index, part in enumerate(value)
    ]


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


def tool_result(content: str, call_id: str | None, where: str) -> dict[str, Any]:
    """The result of the call with this id, for `in_call_order`.

    Args:
        where: the path of the id in the request, for error lines.
    """
    return {"role": "tool", "content": content, "id": call_id, "where": where}


def in_call_order(
    messages: Sequence[Mapping[str, Any]], *, session: bool = False
) -> tuple[dict[str, Any], ...]:
    """The messages without ids of calls, and tool results in the order of their calls.

    Templates do not print the ids, so that the model can match results by their order only.
    Results without an id come last.

    Args:
        session: whether the messages go on in a session, which may hold the calls of results before
            the first reply.

    Raises:
        ApiError: a result is of no call before it, or of one that has a result already.
    """
    ordered: list[dict[str, Any]] = []
    calls = _OpenCalls(replied=not session)
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result:
            results = sorted(((calls.place(one), one) for one in group), key=itemgetter(0))
            ordered += [{"role": "tool", "content": one["content"]} for _, one in results]
            continue
        for message in group:
            calls.add(message)
            listed = [_without(call, "id") for call in message.get("tool_calls", ())]
            ordered.append(dict(message) | ({"tool_calls": listed} if listed else {}))
    return tuple(ordered)


@dataclass(slots=True)
class _OpenCalls:
    """The calls of a conversation that have no result yet.

    Attributes:
        replied: whether all calls are known, since a reply is among the messages.
    """

    replied: bool
    _count: int = 0
    _places: dict[str | None, list[int]] = field(default_factory=dict)  # by id

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in the calls of a message that is no result."""
        self.replied = self.replied or message["role"] == "assistant"
        for call in message.get("tool_calls", ()):
            self._places.setdefault(call["id"], []).append(self._count)
            self._count += 1

    def place(self, result: Mapping[str, Any]) -> float:
        """The place of a result among those of all calls."""
        call_id = result["id"]
        if places := self._places.get(call_id):
            return places.pop(0)
        if call_id is not None and self.replied:
            where = result["where"]
            raise ApiError(
                f"{where} is {shown(call_id)}: no call before it has this id and no result yet;"
                " send the reply with the call before its result",
                param=where,
            )
        return inf


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
