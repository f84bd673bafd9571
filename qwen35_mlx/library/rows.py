"""Converts messages and chat settings to and from the columns of the database."""

import json
import re
from dataclasses import asdict
from typing import Any

from qwen35_mlx.library.conversation import ChatSettings, Message, Usage
from qwen35_mlx.library.database import DamagedError

_USAGE_COLUMNS = (
    "prompt_tokens",
    "cached_tokens",
    "reply_tokens",
    "prefill_seconds",
    "decode_seconds",
    "peak_memory",
)
COLUMNS = (
    "id",
    "parent",
    "role",
    "content",
    "thinking",
    "tool_calls",
    "state",
    "finish_reason",
    "error",
    "model",
    *_USAGE_COLUMNS,
    "thinking_seconds",
    "created",
)


def message_from_row(row: tuple[Any, ...]) -> Message:
    """The message in a row with the columns `COLUMNS`."""
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    usage = {name: values.pop(name) for name in _USAGE_COLUMNS}
    values["usage"] = None if usage["prompt_tokens"] is None else Usage(**usage)
    values["tool_calls"] = tuple(_read_json(values["tool_calls"] or "[]", list))
    return Message(**values)


def row_from_message(message: Message) -> dict[str, Any]:
    """The column values of a message, without its id."""
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
        **{name: None if usage is None else getattr(usage, name) for name in _USAGE_COLUMNS},
        "thinking_seconds": message.thinking_seconds,
        "created": message.created,
    }


def settings_to_json(settings: ChatSettings) -> str:
    return to_json_text({**asdict(settings), "sampling": dict(settings.sampling)})


def settings_from_json(text: str) -> ChatSettings:
    try:
        return ChatSettings(**_read_json(text, dict))
    except TypeError as error:
        raise DamagedError(f"settings: {error}") from None


def _read_json(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DamagedError(f"{error}") from None
    if not isinstance(value, kind):
        raise DamagedError(f"{text[:20]!r} is no {kind.__name__}")
    return value


def to_json_text(value: Any) -> str:
    return replace_surrogates(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def replace_surrogates(text: str) -> str:
    """Text that UTF-8 can encode: unpaired surrogates, from a broken paste, become U+FFFD."""
    if re.search("[\ud800-\udfff]", text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
