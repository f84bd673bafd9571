"""Splits a reply, as it streams in, into thinking, answer and tool calls.

A reply reads `thinking</think>answer<tool_call>...</tool_call>`, with any of these missing and any
number of calls. Text arrives in chunks that end anywhere, also inside a tag; what comes out does
not depend on where they end.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from qwen35_mlx.text.tool_call import ParsedCall, Unfinished, parameter_schemas, parse_call

_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
_CALL_OPEN = "<tool_call>"
_CALL_CLOSE = "</tool_call>"
_CALL_HEADS = ("<function=", "{")


@dataclass(frozen=True, slots=True)
class ThinkingText:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallText:
    """One whole tool call; `raw` is its text with both tags."""

    name: str
    arguments: dict[str, object]
    raw: str


ReplyPart = ThinkingText | AnswerText | ToolCallText


class _In(Enum):
    THINKING = auto()
    ANSWER = auto()
    CALL_HEAD = auto()
    CALL = auto()


class ReplyParser:
    """Push the reply's text in chunks, get its parts; `finish` gives the rest.

    thinking: whether the prompt left a <think> block open (`ChatTemplate.opens_thinking`).
    tools: the tools on offer. A call's values are converted to the types that their JSON schemas
        name; without a schema they stay strings, which render back exactly as the model wrote them.

    Text comes out as early as it is certain: held back are only the start of a possible tag,
    whitespace where it may have to go, and a tool call until it closes.

    - Whitespace is dropped at the start of thinking, at the start of the answer, between tool calls
      and after the last one.
    - A <think> that the model writes itself counts at the very start of the reply only.
    - Thinking ends at the first </think>; everything before it is thinking, tool calls included.
    - In the answer <tool_call> opens a call wherever it stands, in a code fence too, but only if
      `<function=` or `{` follows. Anything else is text at once, so an answer may speak of the tag.
    - </tool_call> closes a call only where its body is complete: inside a parameter or a JSON
      string it belongs to the value. A body that fits neither form comes out as answer text, as
      does a call that never closes.
    """

    def __init__(self, *, thinking: bool, tools: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._schemas = parameter_schemas(tools or ())
        self._in = _In.THINKING if thinking else _In.ANSWER
        self._buffer = ""  # read, but not decided yet
        self._margin = True  # whitespace that comes now may be dropped
        self._gap = ""  # whitespace met at the margin
        self._answered = False
        self._may_think = not thinking
        self._body: list[str] = []  # of the open tool call, head and all

    def push(self, text: str) -> list[ReplyPart]:
        """The parts that `text` makes certain."""
        self._buffer += text
        parts: list[ReplyPart] = []
        while self._step(parts):
            pass
        return parts

    def held(self) -> list[ReplyPart]:
        """What `finish` would give now; more may be pushed afterwards."""
        return copy(self).finish()

    def finish(self) -> list[ReplyPart]:
        """What was still held back; the parser is done then."""
        parts: list[ReplyPart] = []
        rest = "".join(self._body) + self._buffer
        if self._in in (_In.CALL_HEAD, _In.CALL):
            rest = _CALL_OPEN + rest
        self._buffer, self._body = "", []
        if self._in is _In.THINKING:
            _append(parts, ThinkingText(rest))
        elif rest:
            self._answer(rest, parts)
        self._in = _In.ANSWER  # nothing is open any more
        return parts

    def _step(self, parts: list[ReplyPart]) -> bool:
        """Decide what can be decided next; False when more text is needed."""
        if self._in is _In.THINKING:
            return self._step_thinking(parts)
        if self._in is _In.ANSWER:
            return self._step_answer(parts)
        if self._in is _In.CALL_HEAD:
            return self._step_call_head(parts)
        return self._step_call(parts)

    def _step_thinking(self, parts: list[ReplyPart]) -> bool:
        if self._margin:
            self._buffer = self._buffer.lstrip()
            if self._buffer.startswith(_THINK_OPEN):
                self._buffer = self._buffer.removeprefix(_THINK_OPEN)
                return True
            if _THINK_OPEN.startswith(self._buffer):
                return False
            self._margin = False
        text, closed = self._take_until(_THINK_CLOSE)
        _append(parts, ThinkingText(text))
        if closed:
            self._in, self._margin = _In.ANSWER, True
        return closed

    def _step_answer(self, parts: list[ReplyPart]) -> bool:
        if self._margin:
            text = self._buffer.lstrip()
            self._gap += self._buffer[: len(self._buffer) - len(text)]
            self._buffer = text
            if self._may_think:
                if text.startswith(_THINK_OPEN):
                    self._buffer = text.removeprefix(_THINK_OPEN)
                    self._in, self._may_think, self._gap = _In.THINKING, False, ""
                    return True
                if _THINK_OPEN.startswith(text):
                    return False
        text, opened = self._take_until(_CALL_OPEN)
        if text:
            self._answer(text, parts)
        if opened:
            self._in = _In.CALL_HEAD
        return opened

    def _step_call_head(self, parts: list[ReplyPart]) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(_CALL_HEADS):
            self._in = _In.CALL
            return True
        if any(head.startswith(text) for head in _CALL_HEADS):
            return False
        self._in = _In.ANSWER
        self._answer(_CALL_OPEN, parts)
        return True

    def _step_call(self, parts: list[ReplyPart]) -> bool:
        text, closed = self._take_until(_CALL_CLOSE)
        self._body.append(text)
        if not closed:
            return False
        body = "".join(self._body)
        raw = _CALL_OPEN + body + _CALL_CLOSE
        match parse_call(body, self._schemas):
            case Unfinished():
                self._body = [body, _CALL_CLOSE]
                return True
            case ParsedCall(name, arguments):
                parts.append(ToolCallText(name, arguments, raw))
                self._margin, self._gap, self._may_think = True, "", False
            case None:
                self._answer(raw, parts)
        self._in, self._body = _In.ANSWER, []
        return True

    def _take_until(self, tag: str) -> tuple[str, bool]:
        """Take the text before `tag`, and the tag; (text, False) keeps what may be its start."""
        text, found, rest = self._buffer.partition(tag)
        if found:
            self._buffer = rest
            return text, True
        start = text.rfind("<")  # where a tag begins, and nothing else in a tag
        if start < 0 or not tag.startswith(text[start:]):
            start = len(text)
        self._buffer = text[start:]
        return text[:start], False

    def _answer(self, text: str, parts: list[ReplyPart]) -> None:
        _append(parts, AnswerText((self._gap if self._answered else "") + text))
        self._answered, self._margin, self._gap = True, False, ""


def message_from(parts: Iterable[ReplyPart]) -> dict[str, Any]:
    """The assistant message of a reply's parts, as a chat template takes it.

    `reasoning_content` is always there: without it templates look for </think> in the content, and
    would cut an answer that speaks of it. `tool_calls` is there when there are any. Answer text
    around tool calls becomes one `content` before them, the only place templates have for it.
    """
    thinking: list[str] = []
    answer: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case ThinkingText(text):
                thinking.append(text)
            case AnswerText(text):
                answer.append(text)
            case ToolCallText(name, arguments):
                function = {"name": name, "arguments": arguments}
                calls.append({"type": "function", "function": function})
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(answer).strip(),
        "reasoning_content": "".join(thinking).strip(),
    }
    if calls:
        message["tool_calls"] = calls
    return message


def _append(parts: list[ReplyPart], part: ThinkingText | AnswerText) -> None:
    """Add a text, to the last part where that is of the same kind."""
    if not part.text:
        return
    if parts and type(parts[-1]) is type(part):
        part = type(part)(parts.pop().text + part.text)  # pyright: ignore[reportAttributeAccessIssue]
    parts.append(part)
