"""What the readers of all formats share: values of untrusted JSON, and the tree that they fill."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    Message,
    Role,
    title_from,
)
from qwen35_mlx.library.rows import usable_time

_NO_MAPPING: Mapping[str, Any] = {}
_LONGEST_THOUGHT = 1e7  # seconds


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else _NO_MAPPING


def items(value: object) -> Sequence[Any]:
    """The value if it is a JSON list, else an empty one."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def moment(value: object) -> float:
    """Seconds since 1970 of a time: a number in any unit, or ISO 8601; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return 0.0
    return usable_time(value)


def duration(value: object) -> float | None:
    """Seconds; None if it is no number that may be a time of thinking."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value < _LONGEST_THOUGHT else None


def tool_call(name: str, arguments: object) -> Mapping[str, Any]:
    """A tool call as chat templates take it. What is no JSON object becomes the one argument."""
    given = dict(arguments) if isinstance(arguments, dict) else {"input": arguments}
    return {"type": "function", "function": {"name": name or "tool", "arguments": given}}


class Tree:
    """The messages of one conversation, filled from the roots to the leaves."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def add(
        self, parent: int | None, role: Role, content: str, *, created: float = 0.0, **rest: Any
    ) -> int:
        """Add a message after its parent, and return its id."""
        number = len(self._messages) + 1
        self._messages.append(Message(number, parent, role, content, created=created, **rest))
        return number

    def conversation(
        self,
        *,
        title: str,
        leaf: int | None = None,
        system: str = "",
        model: str = "",
        created: float = 0.0,
        updated: float = 0.0,
    ) -> Conversation | None:
        """The conversation; None if it has no message.

        Args:
            title: "" for one from the first question.
            leaf: the last message of the selected path; None for the newest one.
            model: "" for that of the newest reply.
            created, updated: 0 for what the messages say.
        """
        if not self._messages:
            return None
        asked = (message.content for message in self._messages if message.role == "user")
        times = [message.created for message in self._messages if message.created]
        models = (message.model for message in reversed(self._messages) if message.model)
        return Conversation(
            id=0,
            title=" ".join(title.split()) or title_from(next(asked, "")),
            messages=tuple(self._messages),
            leaf=leaf or self._messages[-1].id,
            settings=ChatSettings(system=system or None),
            model=model or next(models, ""),
            created=created or min(times, default=0.0),
            updated=updated or max(times, default=created),
        )
