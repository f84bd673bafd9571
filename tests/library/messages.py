"""Helpers that write messages to a library."""

from dataclasses import replace
from typing import Any

from qwen35_mlx.library.conversation import Message, Role
from qwen35_mlx.library.library import Library


def add_message(
    library: Library, conversation: int, parent: int | None, role: Role, content: str, **rest: Any
) -> Message:
    return library.add_message(conversation, Message(0, parent, role, content, **rest))


def begin_reply(library: Library, conversation: int, parent: int, model: str) -> Message:
    """Add an empty partial reply, as at the beginning of a turn."""
    return add_message(library, conversation, parent, "assistant", "", state="partial", model=model)


def update_reply(
    library: Library, reply: int, content: str, thinking: str = "", **rest: Any
) -> None:
    """Save a reply that is being written."""
    message = Message(reply, None, "assistant", content, thinking, state="partial", **rest)
    library.save(message, durable=False)


def finish_reply(
    library: Library,
    reply: int,
    content: str,
    thinking: str = "",
    tool_calls: tuple[Any, ...] | list[Any] = (),
    **rest: Any,
) -> None:
    """Save a reply that is complete, or in the state given."""
    message = Message(reply, None, "assistant", content, thinking, tuple(tool_calls))
    library.save(replace(message, **rest))
