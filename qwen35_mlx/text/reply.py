"""Splits a reply into thinking, answer and tool calls while it streams in.

A reply reads `thinking</think>answer<tool_call>...</tool_call>`, with any of these missing and any
number of calls. Text arrives in chunks that may end anywhere, even inside a tag; the result does
not depend on where they end.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from qwen35_mlx.text.call_scanner import CallScanner
from qwen35_mlx.text.tool_call import ParsedCall, Unfinished, parameter_schemas, parse_call

_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
_CALL_OPEN = "<tool_call>"
_CALL_CLOSE = "</tool_call>"
_CALL_HEADS = ("<function=", "{")
_SPACE = re.compile(r"\s*")


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


class _Section(Enum):
    """The part of the reply that the next character belongs to."""

    THINKING = auto()
    ANSWER = auto()
    CALL_HEAD = auto()
    CALL = auto()


class PlainParser:
    """As `ReplyParser`, for the completion of a raw text: all of it is answer, as it is written."""

    def push(self, text: str) -> list[ReplyEvent]:
        return [Answer(text)]

    def pending(self) -> list[ReplyEvent]:
        return []

    def finish(self) -> list[ReplyEvent]:
        return []


class ReplyParser:
    """Push the reply's text in chunks and get events; `finish` gives the rest.

    Args:
        thinking: whether the prompt left a <think> block open (`ChatTemplate.opens_thinking`).
        tools: the tools on offer. A call's values are converted to the types in their JSON
            schemas; without a schema they stay strings, which render back exactly as the model
            wrote them.

    Text comes out as early as it is certain. Only the start of a possible tag, whitespace that may
    have to be dropped, and a tool call until it closes are held back.

    - Whitespace is dropped at the start of thinking, at the start of the answer, between tool calls
      and after the last one.
    - A <think> that the model writes itself counts at the very start of the reply only.
    - Thinking ends at the first </think>; everything before it is thinking, tool calls included.
    - In the answer <tool_call> opens a call wherever it stands, in a code fence too, but only if
      `<function=` or `{` follows. Anything else is text at once, so an answer may mention the tag.
    - </tool_call> closes a call only where its body is complete: inside a parameter or a JSON
      string it belongs to the value. A body in neither form comes out as answer text, as does a
      call that never closes.

    Each character is read a bounded number of times, whatever the text.
    """

    def __init__(self, *, thinking: bool, tools: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._schemas = parameter_schemas(tools or ())
        self._section = _Section.THINKING if thinking else _Section.ANSWER
        self._buffer = ""  # what was pushed last
        self._at = 0  # how much of the buffer is decided
        self._at_edge = True  # whitespace that comes now may have to be dropped
        self._edge_space: list[str] = []  # the whitespace found there
        self._head_space: list[str] = []  # the whitespace after <tool_call>
        self._answered = False
        self._may_think = not thinking
        # Of the open tool call: the text, the part of it after the last closing tag, its scanner.
        self._call_body: list[str] = []
        self._call_text: list[str] = []
        self._scanner = CallScanner()

    def push(self, text: str) -> list[ReplyEvent]:
        """The events that `text` makes certain."""
        self._buffer, self._at = self._buffer[self._at :] + text, 0
        events = _Events()
        while self._step(events):
            pass
        return events.joined()

    def pending(self) -> list[ReplyEvent]:
        """What `finish` would give now. More may be pushed afterwards."""
        return copy(self).finish()

    def finish(self) -> list[ReplyEvent]:
        """What was still held back, at the end of the reply."""
        events = _Events()
        rest = self._buffer[self._at :]
        if self._section is _Section.CALL_HEAD:
            rest = _CALL_OPEN + "".join(self._head_space) + rest
        elif self._section is _Section.CALL:
            rest = _CALL_OPEN + "".join([*self._call_body, *self._call_text]) + rest
        self._buffer, self._at, self._call_body, self._call_text = "", 0, [], []
        if self._section is _Section.THINKING:
            events.add(Thinking, rest)
        elif rest:
            self._answer(rest, events)
        self._section = _Section.ANSWER  # nothing is open any more
        return events.joined()

    def _step(self, events: "_Events") -> bool:
        """Decide what can be decided next; False when more text is needed."""
        match self._section:
            case _Section.THINKING:
                return self._step_thinking(events)
            case _Section.ANSWER:
                return self._step_answer(events)
            case _Section.CALL_HEAD:
                return self._step_call_head(events)
            case _Section.CALL:
                return self._step_call(events)

    def _step_thinking(self, events: "_Events") -> bool:
        if self._at_edge:
            self._take_space()
            if self._take(_THINK_OPEN):
                return True
            if self._may_become(_THINK_OPEN):
                return False
            self._at_edge = False
        text, closed = self._take_until(_THINK_CLOSE)
        events.add(Thinking, text)
        if closed:
            self._section, self._at_edge = _Section.ANSWER, True
        return closed

    def _step_answer(self, events: "_Events") -> bool:
        if self._at_edge:
            if space := self._take_space():
                self._edge_space.append(space)
            if self._may_think:
                if self._take(_THINK_OPEN):
                    self._section, self._may_think, self._edge_space = _Section.THINKING, False, []
                    return True
                if self._may_become(_THINK_OPEN):
                    return False
        text, opened = self._take_until(_CALL_OPEN)
        if text:
            self._answer(text, events)
        if opened:
            self._section, self._head_space = _Section.CALL_HEAD, []
        return opened

    def _step_call_head(self, events: "_Events") -> bool:
        if space := self._take_space():
            self._head_space.append(space)
        if self._buffer.startswith(_CALL_HEADS, self._at):
            self._section, self._scanner = _Section.CALL, CallScanner()
            self._call_body, self._call_text = [], self._head_space
            return True
        if self._may_become(*_CALL_HEADS):
            return False
        self._section = _Section.ANSWER
        self._answer(_CALL_OPEN + "".join(self._head_space), events)
        return True

    def _step_call(self, events: "_Events") -> bool:
        text, closed = self._take_until(_CALL_CLOSE)
        self._call_text.append(text)
        if not closed:
            return False
        text = "".join(self._call_text)
        self._call_body.append(text)
        self._call_text = [_CALL_CLOSE]
        if self._scanner.ends_in_value(text):
            return True
        body = "".join(self._call_body)
        match parse_call(body, self._schemas):
            case Unfinished():
                return True
            case ParsedCall(name, arguments):
                events.add_call(ToolCall(name, arguments))
                self._at_edge, self._edge_space, self._may_think = True, [], False
            case None:
                self._answer(_CALL_OPEN + body + _CALL_CLOSE, events)
        self._section, self._call_body, self._call_text = _Section.ANSWER, [], []
        return True

    def _take_space(self) -> str:
        """Take the whitespace at the start of what is undecided."""
        start = self._at
        self._at = _SPACE.match(self._buffer, start).end()  # pyright: ignore[reportOptionalMemberAccess]
        return self._buffer[start : self._at]

    def _take(self, tag: str) -> bool:
        """Take `tag`, if what is undecided starts with it."""
        if not self._buffer.startswith(tag, self._at):
            return False
        self._at += len(tag)
        return True

    def _may_become(self, *tags: str) -> bool:
        """Whether all that is undecided is the start of one of the tags."""
        length = len(self._buffer) - self._at
        return any(
            length < len(tag) and self._buffer.endswith(tag[:length], self._at) for tag in tags
        )

    def _take_until(self, tag: str) -> tuple[str, bool]:
        """Take the text before `tag`, and the tag itself if it is there.

        Returns:
            the text, and whether the tag was there. If not, what may be its start stays.
        """
        start, end = self._at, self._buffer.find(tag, self._at)
        if end >= 0:
            self._at = end + len(tag)
            return self._buffer[start:end], True
        end = self._buffer.rfind("<", max(start, len(self._buffer) - len(tag)))
        if end < 0 or not tag.startswith(self._buffer[end:]):
            end = len(self._buffer)
        self._at = end
        return self._buffer[start:end], False

    def _answer(self, text: str, events: "_Events") -> None:
        events.add(Answer, "".join(self._edge_space) + text if self._answered else text)
        self._answered, self._at_edge, self._edge_space = True, False, []


class _Events:
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
