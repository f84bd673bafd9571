"""What a reply consists of: events while it streams in, and the content that they add up to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Thinking:
    """The next piece of the reply's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The next piece of the reply's answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete tool call of the reply.

    Attributes:
        arguments: values by parameter name; in the types of the tool's JSON schema, strings
            without one.
    """

    name: str
    arguments: Mapping[str, Any]

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates take it in `tool_calls`."""
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


ReplyEvent = Thinking | Answer | ToolCall


@dataclass(frozen=True, slots=True)
class ReplyContent:
    """The content of a reply, complete or as far as it is written.

    Attributes:
        text: the answer, without whitespace at its ends. Text around tool calls is joined.
        thinking: likewise.
    """

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]

    def for_template(self) -> dict[str, Any]:
        """The assistant message as chat templates take it.

        `reasoning_content` is always there: without it templates look for </think> in the content,
        and would cut an answer that mentions the tag. `tool_calls` is there when there are any.
        """
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.text,
            "reasoning_content": self.thinking,
        }
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return message


def join_events(events: Iterable[ReplyEvent]) -> ReplyContent:
    """The content that these events add up to."""
    answer: list[str] = []
    thinking: list[str] = []
    calls: list[ToolCall] = []
    for event in events:
        match event:
            case Thinking(text):
                thinking.append(text)
            case Answer(text):
                answer.append(text)
            case ToolCall():
                calls.append(event)
    return ReplyContent("".join(answer).strip(), "".join(thinking).strip(), tuple(calls))


class EventList:
    """Events in their order; neighbouring pieces of one kind are one event."""

    def __init__(self) -> None:
        self._found: list[tuple[type[Thinking | Answer], list[str]] | ToolCall] = []

    def add(self, kind: type[Thinking | Answer], text: str) -> None:
        last = self._found[-1] if self._found else None
        if not text:
            return
        if isinstance(last, tuple) and last[0] is kind:
            last[1].append(text)
        else:
            self._found.append((kind, [text]))

    def add_call(self, call: ToolCall) -> None:
        self._found.append(call)

    def joined(self) -> list[ReplyEvent]:
        return [
            found if isinstance(found, ToolCall) else found[0]("".join(found[1]))
            for found in self._found
        ]
