"""Splits a reply into thinking, answer and tool calls while it streams in.

A reply reads `thinking</think>answer<tool_call>...</tool_call>`, with any of these missing and any
number of calls. Text arrives in chunks that may end anywhere, even inside a tag; the result does
not depend on where they end.

What is a call. Names in capitals stand for text, and whitespace may stand between tags:

    call      = <tool_call> function </tool_call>  |  <tool_call> object </tool_call>
    function  = <function=NAME> parameter* </function>
    parameter = <parameter=KEY> VALUE </parameter>
    object    = {"name": NAME, "arguments": {...}}     as older models write it

**Accepted**, whatever the name: a call as above. It comes out when it closes.

- A value may hold any tags, if the functions and parameters that it opens also close in it.
  </parameter> ends it if <parameter=KEY> or </function> follows. In a value of several lines that
  tag starts or ends a line.
- In an object, tags in strings belong to the strings.

**Repaired**, for names on offer only, at the end of the reply; until then it is held back:

- no </tool_call>, or a part of it, at the end of the reply or before what follows;
- no <tool_call> before a <function=NAME> at the start of a line that a parameter or </function>
  follows;
- several functions in one <tool_call>, and </function> more often than needed;
- no </function> after a parameter, if </tool_call> or another call follows;
- no </parameter> before </function>, or before a parameter that the function offers and the call
  does not have yet. The value has no tag in it, it is on one line or the next tag on its own, and
  no text follows the call.

**Text** is everything else, above all a call that can be read in two ways: a value that opens
what it does not close, or in which </parameter> stands alone on a line; one name with two values; a
value with the tag of a parameter that the call itself lacks; a call that the reply's end cuts. A
call never has an argument of which a part may be missing, but for what no reader can tell: a value
that holds all the closing tags, in their order, without those that open them, since a call comes
out as soon as it closes; and a reply that is cut right after a </tool_call> in such a value.
"""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from enum import Enum, auto
from typing import Any

from qwen35_mlx.text.call_reader import Found, FunctionReader, JsonReader, Outcome
from qwen35_mlx.text.call_repair import repaired_calls
from qwen35_mlx.text.reply_events import Answer as Answer
from qwen35_mlx.text.reply_events import EventList
from qwen35_mlx.text.reply_events import ReplyContent as ReplyContent
from qwen35_mlx.text.reply_events import ReplyEvent as ReplyEvent
from qwen35_mlx.text.reply_events import Thinking as Thinking
from qwen35_mlx.text.reply_events import ToolCall as ToolCall
from qwen35_mlx.text.reply_events import join_events as join_events
from qwen35_mlx.text.tool_call import ParsedCall, parameter_schemas, parse_call

_Tools = Sequence[Mapping[str, Any]]
_THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
_CALL_OPEN = "<tool_call>"
_CALL_CLOSE = "</tool_call>"
_FUNCTION = "<function="
_CALL_HEADS = (_FUNCTION, "{")
_BARE_HEAD = re.compile(r"<function=([^<>\n]{1,200})>\s{0,8}")
_BARE_START = re.compile(r"<function=[^<>\n]{0,200}")
_BARE_NEXT = ("<parameter=", "</function>")
_SPACE = re.compile(r"\s*")


class _Section(Enum):
    """The part of the reply that the next character belongs to."""

    THINKING = auto()
    ANSWER = auto()
    CALL_HEAD = auto()
    BARE_HEAD = auto()  # a function without <tool_call>
    CALL = auto()
    IRREGULAR = auto()  # a call that the end of the reply may repair
    NO_CALL = auto()  # the rest of what has turned out to be none


class PlainParser:
    """As `ReplyParser`, for the completion of a raw text: all of it is answer, as it is written."""

    thinking = False

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
        calls: whether there may be calls; if not, all of the answer is text.
        think_token: whether </think> is a token of its own. Then `end_thinking` ends the thinking,
            and a </think> in the text is what the model says about it.

    Text comes out as early as it is certain. Only the start of a possible tag, whitespace that may
    have to be dropped, and a tool call until it closes are held back.

    - Whitespace is dropped at the start of thinking, at the start of the answer, between tool calls
      and after the last one.
    - A <think> that the model writes itself counts at the very start of the reply only.
    - Thinking ends at the first </think>, or as `think_token` says; everything before it is
      thinking, tool calls included.
    - In the answer <tool_call> opens a call wherever it stands, in a code fence too, but only if
      `<function=` or `{` follows. Anything else is text at once, so an answer may mention the tag.
    - What is a call, and what is text, is said at the top of this module.

    While text streams in, each character is read a bounded number of times, whatever the text.
    """

    def __init__(
        self,
        *,
        thinking: bool,
        tools: _Tools | None = None,
        calls: bool = True,
        think_token: bool = False,
    ) -> None:
        self._schemas = parameter_schemas(tools or ())
        self._tags = [_CALL_OPEN, *([_FUNCTION] if self._schemas else [])] if calls else []
        self._section = _Section.THINKING if thinking else _Section.ANSWER
        self._buffer = ""  # what was pushed last
        self._at = 0  # how much of the buffer is decided
        self._at_edge = True  # whitespace that comes now may have to be dropped
        self._edge_space: list[str] = []  # the whitespace found there
        self._head_space: list[str] = []  # the whitespace after <tool_call>
        self._answered = False
        self._may_think = not thinking
        self._think_token = think_token
        self._blank = True  # the answer's line so far
        self._call: list[str] = []  # the text of the open tool call
        self._reader: FunctionReader | JsonReader = FunctionReader()

    @property
    def thinking(self) -> bool:
        """Whether what was pushed ends in thinking."""
        return self._section is _Section.THINKING

    def go_on_from(self, answer: str) -> None:
        """Go on from a reply that was begun before; nothing of that comes out again.

        Args:
            answer: as far as it was written; "" within thinking.
        """
        self._at_edge = self._may_think = False
        self._answer(answer, EventList())

    def push(self, text: str) -> list[ReplyEvent]:
        """The events that `text` makes certain."""
        self._buffer, self._at = self._buffer[self._at :] + text, 0
        events = EventList()
        while self._step(events):
            pass
        return events.joined()

    def end_thinking(self) -> list[ReplyEvent]:
        """The end of the thinking, by the token </think>, and the events that it makes certain."""
        events = EventList()
        if self._at < len(self._buffer):  # the start of a <think> that is none
            events.add(Thinking, self._take_rest())
        self._section, self._at_edge = _Section.ANSWER, True
        return events.joined()

    def pending(self) -> list[ReplyEvent]:
        """What `finish` would give now. More may be pushed afterwards."""
        return copy(self).finish()

    def finish(self) -> list[ReplyEvent]:
        """What was still held back, at the end of the reply."""
        events = EventList()
        rest = self._buffer[self._at :]
        if self._section is _Section.CALL_HEAD:
            rest = _CALL_OPEN + "".join(self._head_space) + rest
        elif self._section in (_Section.CALL, _Section.IRREGULAR):
            rest = "".join(self._call) + rest
        self._buffer, self._at, self._call = "", 0, []
        if self._section is _Section.THINKING:
            events.add(Thinking, rest)
        elif self._section in (_Section.CALL, _Section.IRREGULAR):
            self._repair(rest, events)
        elif rest:
            self._answer(rest, events)
        self._section = _Section.ANSWER  # nothing is open any more
        return events.joined()

    def _step(self, events: EventList) -> bool:
        """Decide what can be decided next; False when more text is needed."""
        match self._section:
            case _Section.THINKING:
                return self._step_thinking(events)
            case _Section.ANSWER:
                return self._step_answer(events)
            case _Section.CALL_HEAD:
                return self._step_call_head(events)
            case _Section.BARE_HEAD:
                return self._step_bare_head(events)
            case _Section.CALL:
                return self._step_call(events)
            case _Section.IRREGULAR:
                self._call.append(self._take_rest())
                return False
            case _Section.NO_CALL:
                text, closed = self._take_until(_CALL_CLOSE)
                self._answer(text + closed, events)
                self._section = _Section.ANSWER if closed else _Section.NO_CALL
                return bool(closed)

    def _step_thinking(self, events: EventList) -> bool:
        if self._at_edge:
            self._take_space()
            if self._take(_THINK_OPEN):
                return True
            if self._may_become(_THINK_OPEN):
                return False
            self._at_edge = False
        if self._think_token:
            text, closed = self._take_rest(), ""
        else:
            text, closed = self._take_until(THINK_CLOSE)
        events.add(Thinking, text)
        if closed:
            self._section, self._at_edge = _Section.ANSWER, True
        return bool(closed)

    def _step_answer(self, events: EventList) -> bool:
        if self._at_edge:
            if space := self._take_space():
                self._edge_space.append(space)
            if self._may_think:
                if self._take(_THINK_OPEN):
                    self._section, self._may_think, self._edge_space = _Section.THINKING, False, []
                    return True
                if self._may_become(_THINK_OPEN):
                    return False
        text, opened = self._take_until(*self._tags) if self._tags else (self._take_rest(), "")
        if text:
            self._answer(text, events)
        if opened == _CALL_OPEN:
            self._section, self._head_space = _Section.CALL_HEAD, []
        elif opened:
            self._at -= len(opened)
            self._section = _Section.BARE_HEAD
        return bool(opened)

    def _step_call_head(self, events: EventList) -> bool:
        if space := self._take_space():
            self._head_space.append(space)
        if self._buffer.startswith(_CALL_HEADS, self._at):
            json = self._buffer.startswith("{", self._at)
            self._reader = JsonReader() if json else FunctionReader()
            self._call = [_CALL_OPEN + "".join(self._head_space)]
            self._reader.push(self._call[0])
            self._section = _Section.CALL
            return True
        if self._may_become(*_CALL_HEADS):
            return False
        self._section = _Section.ANSWER
        self._answer(_CALL_OPEN + "".join(self._head_space), events)
        return True

    def _step_bare_head(self, events: EventList) -> bool:
        head = _BARE_HEAD.match(self._buffer, self._at) if self._blank else None
        if head is not None and head[1].strip() in self._schemas:
            if self._buffer.startswith(_BARE_NEXT, head.end()):
                self._section, self._call = _Section.IRREGULAR, []
                return True
            rest = self._buffer[head.end() : head.end() + len(_BARE_NEXT[0])]
            if any(tag.startswith(rest) for tag in _BARE_NEXT):
                return False
        elif self._blank and _BARE_START.fullmatch(self._buffer, self._at):
            return False
        self._section, self._at = _Section.ANSWER, self._at + len(_FUNCTION)
        self._answer(_FUNCTION, events)
        return True

    def _step_call(self, events: EventList) -> bool:
        text = self._take_rest()
        self._call.append(text)
        found = self._reader.push(text)
        if found is None:
            return False
        text = "".join(self._call)
        if found.outcome is Outcome.IRREGULAR and self._is_on_offer():
            self._section, self._call = _Section.IRREGULAR, [text]
            return True
        self._call, self._buffer, self._at = [], text[found.length :], 0
        self._end_call(text[: found.length], found, events)
        return True

    def _end_call(self, text: str, found: Found, events: EventList) -> None:
        """The end of a call that needs no repair, or of a text that is none."""
        complete = found.outcome is Outcome.COMPLETE
        self._section = _Section.ANSWER if complete else _Section.NO_CALL
        body = text.removeprefix(_CALL_OPEN).removesuffix(_CALL_CLOSE)
        parsed = parse_call(body, self._schemas) if complete else None
        if isinstance(parsed, ParsedCall):
            self._add_call(parsed, events)
        else:
            self._answer(text, events)

    def _is_on_offer(self) -> bool:
        """Whether the open call may be repaired. Of one in JSON the name is not known yet."""
        function = self._reader.function if isinstance(self._reader, FunctionReader) else None
        return bool(self._schemas) if function is None else function.name in self._schemas

    def _repair(self, text: str, events: EventList) -> None:
        """The calls and the text of a call with wrong tags, at the end of the reply."""
        items = repaired_calls(text, self._schemas)
        for item in [text] if items is None else items:
            if isinstance(item, ParsedCall):
                self._add_call(item, events)
                continue
            start = len(item) - len(item.lstrip()) if self._at_edge else 0
            self._edge_space = [*self._edge_space, item[:start]]
            if item[start:]:
                self._answer(item[start:], events)

    def _add_call(self, call: ParsedCall, events: EventList) -> None:
        events.add_call(ToolCall(call.name, call.arguments))
        self._at_edge, self._edge_space, self._may_think, self._blank = True, [], False, True

    def _take_rest(self) -> str:
        """Take all that is undecided."""
        start, self._at = self._at, len(self._buffer)
        return self._buffer[start:]

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

    def _take_until(self, *tags: str) -> tuple[str, str]:
        """Take the text before the first of the tags, and that tag if it is there.

        Returns:
            the text, and the tag, or "" without one. Then what may be the start of a tag stays.
        """
        start = self._at
        if found := re.compile("|".join(tags)).search(self._buffer, start):
            self._at = found.end()
            return self._buffer[start : found.start()], found[0]
        end = self._buffer.rfind("<", max(start, len(self._buffer) - max(map(len, tags))))
        if end < 0 or not any(tag.startswith(self._buffer[end:]) for tag in tags):
            end = len(self._buffer)
        self._at = end
        return self._buffer[start:end], ""

    def _answer(self, text: str, events: EventList) -> None:
        if not text:
            return
        events.add(Answer, "".join(self._edge_space) + text if self._answered else text)
        self._answered, self._at_edge, self._edge_space = True, False, []
        line = text[text.rfind("\n") + 1 :]
        self._blank = not line.strip() and (self._blank or len(line) < len(text))
