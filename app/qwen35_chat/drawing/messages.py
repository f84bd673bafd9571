"""Stored messages as entries."""

from typing import Any

from qwen35_chat.drawing.entries import (
    NoticeEntry,
    ReplyEntry,
    ThinkingView,
    TranscriptEntry,
    UserEntry,
)
from qwen35_chat.drawing.summary_entry import SummaryEntry
from qwen35_chat.drawing.tool_entries import ToolEntry
from qwen35_chat.progress import short_name
from qwen35_chat.transitions import END_NOTES
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.summaries import whole_path

DEMO_GREETING = "Hello! Who are you?"


def entries_of(stored: Conversation, view: ThinkingView, retry: str) -> list[TranscriptEntry]:
    """The selected path of a conversation, with the turns that were summarised.

    Args:
        retry: the key of that command.
    """
    path = whole_path(stored)
    entries: list[TranscriptEntry] = []
    calls: list[str] = []  # names of the last reply's calls that have no result yet
    for number, message in enumerate(path, 1):
        if message.summary is not None:
            above = sum(m.summary is None for m in path[: number - 1])
            entries.append(SummaryEntry(message.summary, above, message.id))
            continue
        name = calls.pop(0) if calls and message.role == "tool" else ""
        if message.role == "assistant":
            calls = [_call(call)[0] for call in message.tool_calls]
        answered = number < len(path) and path[number].role == "tool"
        version = stored.position(message.id)
        entries.append(entry_of(message, version, view, retry, name, answered=answered))
    return entries


def entry_of(
    message: Message,
    version: tuple[int, int],
    view: ThinkingView,
    retry: str,
    name: str = "",
    *,
    answered: bool = False,
) -> TranscriptEntry:
    """One message.

    Args:
        version: which of how many versions it is, from 1.
        name: of the tool whose result it is.
        answered: the results of its calls follow.
    """
    if message.role == "user":
        return UserEntry(message.content, message.id, version)
    if message.role == "tool":
        return ToolEntry(name, message.content, message=message.id)
    if message.role != "assistant":
        return NoticeEntry(f"{message.role}: {message.content}")
    return ReplyEntry(
        thinking=message.thinking,
        answer=message.content,
        calls=[_call(call) for call in message.tool_calls],
        thinking_seconds=message.thinking_seconds,
        note="" if answered else _note(message, retry),
        error=message.state == "failed",
        view=view,
        model=short_name(message.model),
        message=message.id,
        version=version,
        seconds=_seconds(message),
    )


def _seconds(message: Message) -> float | None:
    """What the reply took; None if that is not known, or if it goes on after a tool's result."""
    return message.usage.seconds if message.usage and not message.tool_calls else None


def _note(message: Message, retry: str) -> str:
    match message.state:
        case "partial":
            return with_retry("Cut off: the app ended while this was written.", retry)
        case "cancelled":
            return with_retry("Stopped.", retry) if message.empty else "Stopped."
        case "failed":
            return with_retry(f"Error: {message.error}", retry)
        case _:
            return END_NOTES.get(message.finish_reason or "stop", "")


def with_retry(note: str, key: str) -> str:
    """A note that names the key for another reply."""
    return f"{note.rstrip('.')}. {key} asks again."


def _call(call: Any) -> tuple[str, Any]:
    """The name and arguments of a stored tool call."""
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments}
    return str(function.get("name", "")), arguments
