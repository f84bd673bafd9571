"""Exports conversations: the whole tree as JSON, or the selected path as Markdown."""

import re
import time
from dataclasses import fields
from typing import Any

from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.checksums import USAGE_COLUMNS
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message
from qwen35_mlx.library.summaries import whole_path

FORMAT = "qwen35-chat conversation"
VERSION = 1
_ROLE_HEADINGS = {"system": "System", "user": "You", "assistant": "Assistant", "tool": "Tool"}
SUMMARY_TITLE = "Summary of the turns above, which the model reads in their place"
STATE_LABELS = {"partial": "interrupted", "cancelled": "stopped", "failed": "failed"}


def to_json(conversation: Conversation) -> str:
    """A conversation without its draft as JSON. Message ids count from 1."""
    numbers = {message.id: number for number, message in enumerate(conversation.messages, 1)}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "title": conversation.title,
        "model": conversation.model,
        "created": conversation.created,
        "updated": conversation.updated,
        "settings": _without_defaults(conversation.settings, ChatSettings()),
        "selected": None if conversation.leaf is None else numbers[conversation.leaf],
        **({} if conversation.shelf == "listed" else {"shelf": conversation.shelf}),
        "messages": [_message(message, numbers) for message in conversation.messages],
    }
    return write_json(document, indent=2) + "\n"


def _message(message: Message, numbers: dict[int, int]) -> dict[str, Any]:
    parent = None if message.parent is None else numbers[message.parent]
    values: dict[str, Any] = {
        "id": numbers[message.id],
        "parent": parent,
        "role": message.role,
        "content": message.content,
    }
    rest = _without_defaults(message, Message(0, None, "user", ""))
    # The key of the usage in this format is "figures".
    rest = {"figures" if name == "usage" else name: value for name, value in rest.items()}
    values |= {name: value for name, value in rest.items() if name not in values}
    values.setdefault("created", message.created)
    if message.usage is not None:
        values["figures"] = {name: getattr(message.usage, name) for name in USAGE_COLUMNS}
    if message.tool_calls:
        values["tool_calls"] = list(message.tool_calls)
    return values


def _without_defaults(value: Any, default: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from those of `default`."""
    names = [field.name for field in fields(value)]
    return {n: getattr(value, n) for n in names if getattr(value, n) != getattr(default, n)}


def to_markdown(conversation: Conversation) -> str:
    """The selected path as Markdown, with the turns that were summarised.

    Thinking is quoted, and open code fences are closed.
    """
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created))
    title = " ".join(conversation.title.split()) or "Untitled"
    parts = [f"# {title}", ", ".join(part for part in (when, conversation.model) if part)]
    if (system := system_prompt(conversation)) is not None:
        parts += ["## System", _with_closed_fence(system)]
    for message in whole_path(conversation):
        if message.summary is not None:
            parts += [f"## {SUMMARY_TITLE}", _with_closed_fence(message.summary)]
        else:
            parts += [f"## {_ROLE_HEADINGS[message.role]}", *_message_parts(message)]
    return "\n\n".join(part for part in parts if part) + "\n"


def system_prompt(conversation: Conversation) -> str | None:
    """The system prompt of the settings, unless the path has one of its own."""
    path = conversation.path()
    own = path and path[0].role == "system" and path[0].summary is None
    return None if own else conversation.settings.system


def _message_parts(message: Message) -> list[str]:
    parts = []
    if message.thinking:
        quoted = "\n".join(f"> {line}".rstrip() for line in message.thinking.splitlines())
        parts.append(f"> *Thinking*\n>\n{quoted}")
    parts.append(_with_closed_fence(message.content))
    for call in message.tool_calls:
        text = write_json(call.get("function", call), indent=2)
        fence = "`" * max(3, _longest_run(text) + 1)
        parts.append(f"{fence}json\n{text}\n{fence}")
    if ending := STATE_LABELS.get(message.state):
        parts.append(f"*({ending}{': ' if message.error else ''}{message.error})*")
    return parts


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _with_closed_fence(text: str) -> str:
    """The text with its last code fence closed, so that the next section is not part of it."""
    open_fence = ""
    for line in text.splitlines():
        fence = re.match(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})", line)
        if fence and not open_fence:
            open_fence = fence[1]
        elif fence and fence[1].startswith(open_fence) and line.strip() == fence[1]:
            open_fence = ""
    return f"{text}\n{open_fence}" if open_fence else text
