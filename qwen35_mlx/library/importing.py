"""Imports conversations from JSON. The input is not trusted: every field is checked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.json_text import JsonTextError, read_json
from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    FinishReason,
    Message,
    MessageState,
    Role,
    Shelf,
    Usage,
)
from qwen35_mlx.library.exporting import FORMAT, VERSION
from qwen35_mlx.library.rows import replace_surrogates

MAX_INTEGER = 2**63 - 1  # of SQLite
MAX_SEED = 2**64 - 1
MAX_DEPTH = 2_000
MAX_NAMED_DEPTH = 8  # the depth to which error messages name the place
_REQUIRED: Any = object()


def from_json(text: str) -> Conversation:
    """Read the JSON of `exporting.to_json`. The conversation's id is 0.

    Raises:
        Qwen35Error: a field is missing, unknown or malformed; the message names it.
    """
    try:
        document = read_json(text.removeprefix("\ufeff"), _reject_duplicates)
    except JsonTextError as error:
        raise Qwen35Error(f"the file is not JSON ({error}): give an exported one") from None
    _check_storable(document)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise Qwen35Error(f"the field 'format' is not {FORMAT!r}: give a file of --export")
    top = _JsonFields(document, "")
    top.take("format", str)
    version = top.take("version", int)
    if version != VERSION:
        raise Qwen35Error(
            f"the field 'version' is {version}, and this version reads {VERSION}: update qwen35-mlx"
        )
    values = {
        "title": top.take("title", str),
        "model": top.take("model", str, ""),
        "created": top.number("created"),
        "updated": top.number("updated"),
        "settings": _settings(top.take("settings", dict, {})),
        "leaf": top.take("selected", int | None, None),
        "shelf": top.one_of("shelf", get_args(Shelf), "listed"),
    }
    messages = _messages(top.take("messages", list))
    top.end()
    if values["leaf"] is not None and values["leaf"] not in {message.id for message in messages}:
        raise Qwen35Error(f"the field 'selected' is {values['leaf']}: no message has that id")
    return Conversation(id=0, messages=tuple(messages), **values)


def _settings(values: dict[str, Any]) -> ChatSettings:
    fields = _JsonFields(values, "settings", MAX_SEED)
    sampling = fields.take("sampling", dict, {})
    within = _JsonFields(sampling, fields.name("sampling"))
    settings = ChatSettings(
        system=fields.take("system", str | None, None),
        thinking=fields.take("thinking", bool | None, None),
        max_tokens=fields.take("max_tokens", int | None, None),
        seed=fields.take("seed", int | None, None),
        sampling={name: within.take(name, int | float | None) for name in sampling},
        template_arguments=fields.take("template_arguments", dict, {}),
        thinking_budget=fields.take("thinking_budget", int | None, None),
        repetition_guard=fields.take("repetition_guard", bool | None, None),
    )
    fields.end()
    return settings


def _messages(values: Sequence[Any]) -> list[Message]:
    messages: list[Message] = []
    ids: set[int] = set()
    for index, value in enumerate(values):
        message = _message(value, f"messages[{index}]")
        if message.id < 1 or message.id in ids:
            raise Qwen35Error(
                f"the field 'messages[{index}].id' is {message.id}: give a number of 1 or more"
                " that no other message has"
            )
        if message.parent is not None and message.parent not in ids:
            raise Qwen35Error(
                f"the field 'messages[{index}].parent' is {message.parent}: no message before it"
                " has that id"
            )
        ids.add(message.id)
        messages.append(message)
    return messages


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise Qwen35Error(f"the field '{where}' is {_json_type(value)}: give an object")
    fields = _JsonFields(value, where)
    usage = fields.take("figures", dict | None, None)
    message = Message(
        id=fields.take("id", int),
        parent=fields.take("parent", int | None),
        role=fields.one_of("role", get_args(Role)),
        content=fields.take("content", str),
        thinking=fields.take("thinking", str, ""),
        tool_calls=_checked_calls(fields.take("tool_calls", list, []), fields.name("tool_calls")),
        state=fields.one_of("state", get_args(MessageState), "complete"),
        finish_reason=fields.one_of("finish_reason", (*get_args(FinishReason), None), None),
        error=fields.take("error", str, ""),
        model=fields.take("model", str, ""),
        usage=None if usage is None else _usage(_JsonFields(usage, fields.name("figures"))),
        thinking_seconds=fields.number("thinking_seconds", None),
        created=fields.number("created"),
    )
    fields.end()
    return message


def _usage(fields: "_JsonFields") -> Usage:
    usage = Usage(
        prompt_tokens=fields.take("prompt_tokens", int),
        cached_tokens=fields.take("cached_tokens", int),
        reply_tokens=fields.take("reply_tokens", int),
        prefill_seconds=fields.number("prefill_seconds"),
        decode_seconds=fields.number("decode_seconds"),
        peak_memory=fields.take("peak_memory", int),
    )
    fields.end()
    return usage


def _checked_calls(calls: Sequence[Any], where: str) -> tuple[Mapping[str, Any], ...]:
    for index, call in enumerate(calls):
        at = f"{where}[{index}]"
        if not isinstance(call, dict):
            raise Qwen35Error(f"the field '{at}' is {_json_type(call)}: give an object")
        function = _JsonFields(call, at).take("function", dict)
        within = _JsonFields(function, f"{at}.function")
        within.take("name", str)
        within.take("arguments", dict)
    return tuple(calls)


class _JsonFields:
    """Reads the fields of a JSON object one by one, and rejects those left at the end.

    Args:
        where: the object's place in the document, for error messages; "" for the document.
        largest: the greatest whole number that is accepted.
    """

    def __init__(self, values: dict[str, Any], where: str, largest: int = MAX_INTEGER):
        self._values = values
        self._where = where
        self._largest = largest
        self._taken: set[str] = set()

    def name(self, field: str) -> str:
        return f"{self._where}.{field}" if self._where else field

    def take(self, field: str, kind: Any, default: Any = _REQUIRED) -> Any:
        self._taken.add(field)
        if field not in self._values:
            if default is _REQUIRED:
                raise Qwen35Error(f"the field '{self.name(field)}' is missing: add it")
            return default
        value = self._values[field]
        # In Python a bool is an int.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in _NUMBER_TYPES):
            raise Qwen35Error(
                f"the field '{self.name(field)}' is {_json_type(value)}:"
                f" give {_accepted_types(kind)}"
            )
        too_large = isinstance(value, int) and abs(value) > self._largest
        if too_large or (isinstance(value, float) and not math.isfinite(value)):
            raise Qwen35Error(
                f"the field '{self.name(field)}' is too large a number: give a smaller one"
            )
        return value

    def number(self, field: str, default: Any = _REQUIRED) -> Any:
        """A number as a float; JSON may write it as an integer."""
        value = self.take(field, int | float | None if default is None else int | float, default)
        return None if value is None else float(value)

    def one_of(self, field: str, values: Sequence[Any], default: Any = _REQUIRED) -> Any:
        value = self.take(field, str | None if None in values else str, default)
        if value not in values:
            known = ", ".join(repr(value) for value in values if value is not None)
            raise Qwen35Error(f"the field '{self.name(field)}' is {value!r}: give one of {known}")
        return value

    def end(self) -> None:
        for field in self._values:
            if field not in self._taken:
                raise Qwen35Error(f"the field '{self.name(field)}' is unknown: leave it out")


_NUMBER_TYPES = (int, int | None, int | float, int | float | None)
_TYPE_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def _json_type(value: object) -> str:
    return _TYPE_NAMES[type(value)]


def _accepted_types(kind: Any) -> str:
    kinds = [
        one for one in get_args(kind) or (kind,) if not (one is int and float in get_args(kind))
    ]
    return " or ".join(_TYPE_NAMES[one] for one in kinds)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Qwen35Error(f"the field '{twice}' is there twice in one object: keep one")
    return values


def _check_storable(document: Any) -> None:
    """Reject text that the database cannot store exactly, and what is nested absurdly deep."""
    waiting: list[tuple[Any, str, int]] = [(document, "", 0)]
    while waiting:
        value, where, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Qwen35Error(f"the field '{where[:80]}...' is nested too deeply: make it flatter")
        if isinstance(value, str) and replace_surrogates(value) != value:
            raise Qwen35Error(f"the field '{where[:200]}' has half a surrogate pair: remove it")
        # Deep in a tool call, the place would grow longer than its value.
        inside = f"{where}." if where and depth < MAX_NAMED_DEPTH else where
        if isinstance(value, dict):
            for name, item in value.items():
                waiting.append((name, f"{inside}(name)", depth))
                place = f"{inside}{name}" if depth < MAX_NAMED_DEPTH else where
                waiting.append((item, place, depth + 1))
        if isinstance(value, list):
            for index, item in enumerate(value):
                place = f"{where}[{index}]" if depth < MAX_NAMED_DEPTH else where
                waiting.append((item, place, depth + 1))
