"""Converts messages and chat settings to and from the columns of the database."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, get_args

from qwen35_mlx.json_text import JsonTextError, read_json, write_json
from qwen35_mlx.library.checksums import MESSAGE_COLUMNS, USAGE_COLUMNS, matches
from qwen35_mlx.library.conversation import (
    ChatSettings,
    Message,
    Role,
    Shelf,
    Usage,
)
from qwen35_mlx.library.database_errors import DamagedError

# In the year 5138. What is more counts other units: seconds of today have ten digits.
MAX_SECONDS = 1e11
# As the database has them: greater ones come first in lists.
SHELVES: Mapping[Shelf, int] = {"pinned": 1, "listed": 0, "archived": -1}
# The error of a message whose checksum differs.
DAMAGED = "damaged on disk: the text may differ from what was written"


def message_from_row(row: tuple[Any, ...]) -> Message:
    """The message in a row with `MESSAGE_COLUMNS` and the checksum.

    A damaged one has the state "failed" and the error `DAMAGED`, with what can be read of it.
    """
    values: dict[str, Any] = dict(zip(MESSAGE_COLUMNS, row[:-1], strict=True))
    if not matches(row):
        return _salvaged(values)
    del values["conversation"]
    usage = {name: values.pop(name) for name in USAGE_COLUMNS}
    values["usage"] = None if usage["prompt_tokens"] is None else Usage(**usage)
    calls = values["tool_calls"]
    values["tool_calls"] = tuple(_read_json(calls, list)) if calls else ()
    values["created"] = usable_time(values["created"])
    return Message(**values)


def _salvaged(values: dict[str, Any]) -> Message:
    """What can be read of a damaged row, in which any column may hold anything."""

    def take(name: str, kind: Any, default: Any) -> Any:
        return values[name] if isinstance(values[name], kind) else default

    message = Message(
        id=values["id"],
        parent=take("parent", int, None),
        role=values["role"] if values["role"] in get_args(Role) else "user",
        content=take("content", str, ""),
        thinking=take("thinking", str, ""),
        state="failed",
        error=DAMAGED,
        model=take("model", str, ""),
        created=usable_time(values["created"]),
    )
    try:
        calls = tuple(_read_json(values["tool_calls"] or "[]", list))
    except (DamagedError, TypeError):
        return message
    whole = all(isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls)
    return replace(message, tool_calls=calls) if whole else message


def row_from_message(message: Message) -> dict[str, Any]:
    """The column values of a message, without its id and conversation."""
    usage = message.usage
    return {
        "parent": message.parent,
        "role": message.role,
        "content": replace_surrogates(message.content),
        "thinking": replace_surrogates(message.thinking),
        "tool_calls": to_json_text(list(message.tool_calls)) if message.tool_calls else "",
        "state": message.state,
        "finish_reason": message.finish_reason,
        "error": replace_surrogates(message.error),
        "model": replace_surrogates(message.model),
        **{name: None if usage is None else getattr(usage, name) for name in USAGE_COLUMNS},
        "thinking_seconds": message.thinking_seconds,
        "created": usable_time(message.created),
    }


def shelf_of(value: object) -> Shelf:
    """The shelf in a column; a damaged one is "listed"."""
    for shelf, number in SHELVES.items():
        if number == value:
            return shelf
    return "listed"


def usable_time(time: object) -> float:
    """Seconds since 1970 that a calendar has, from a time that may come from anywhere.

    Milliseconds, microseconds and nanoseconds become seconds. What can be no time is 0.
    """
    seconds = float(time) if isinstance(time, int | float) else 0.0
    for unit in (1e9, 1e6, 1e3):
        if seconds >= unit * MAX_SECONDS / 1e3:
            seconds /= unit
            break
    return seconds if 0.0 < seconds < MAX_SECONDS else 0.0


def settings_to_json(settings: ChatSettings) -> str:
    """The settings that are set, so that versions which lack a new one read the others."""
    values = asdict(replace(settings, sampling=dict(settings.sampling)))
    return to_json_text({n: v for n, v in values.items() if v not in (None, {})})


def settings_from_json(text: str) -> ChatSettings:
    try:
        return ChatSettings(**_read_json(text, dict))
    except TypeError as error:
        raise DamagedError(f"settings: {error}") from None


def _read_json(text: str, kind: type) -> Any:
    try:
        value = read_json(text)
    except JsonTextError as error:
        raise DamagedError(f"{error}") from None
    if not isinstance(value, kind):
        raise DamagedError(f"{text[:20]!r} is no {kind.__name__}")
    return value


def to_json_text(value: Any) -> str:
    return replace_surrogates(write_json(value))


def replace_surrogates(text: str) -> str:
    """Text that UTF-8 can encode: unpaired surrogates, from a broken paste, become U+FFFD."""
    if re.search("[\ud800-\udfff]", text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
