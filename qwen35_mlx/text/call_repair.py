"""Tool calls of which tags are missing, or of which there are too many.

`qwen35_mlx.text.reply` lists what is repaired. A value is taken only where one reading of the text
is left: if the text can be read as another call too, it is no call.
"""

import json
from collections.abc import Mapping

from qwen35_mlx.text.call_tags import Function, Kind, Step, Tag, Value, read_tags
from qwen35_mlx.text.tool_call import ParameterSchemas, ParsedCall, parse_json, to_call

_AFTER_VALUE = (Kind.PARAMETER, Kind.FUNCTION_END, Kind.CALL_END, Kind.CALL, Kind.FUNCTION)
_AFTER_FUNCTION = (Kind.CALL_END, Kind.CALL, Kind.FUNCTION)

# Each value without </parameter> is looked for in all the rest of the text.
_MAX_GUESSED = 20


def repaired_calls(text: str, schemas: ParameterSchemas) -> list[ParsedCall | str] | None:
    """The calls in a text that starts with one, and the texts between and after them.

    None if the text is not certain to be that.
    """
    try:
        return _Repair(text, schemas).items()
    except _UncertainError:
        return None


class _UncertainError(Exception):
    """The text has no reading, or several."""


class _Repair:
    def __init__(self, text: str, schemas: ParameterSchemas) -> None:
        self._text = text
        self._schemas = schemas
        self._tags = list(read_tags(text))
        self._next = 0  # the index of the next tag
        self._at = 0  # the end of what was read
        self._guessed = 0  # values without </parameter>: if text follows, they may go on there

    def items(self) -> list[ParsedCall | str]:
        items: list[ParsedCall | str] = []
        last: Kind | None = None  # None after text
        while tag := self._peek():
            if gap := self._gap(tag):
                _require(bool(items) and not self._guessed)
                items.append(gap)
                last = None
            self._advance()
            match tag.kind:
                case Kind.CALL:
                    call = self._json_call()
                    last = Kind.FUNCTION_END if call else Kind.CALL
                    items += [call] if call else []
                case Kind.FUNCTION:
                    _require(not items or isinstance(items[-1], ParsedCall) or "\n" in _end(gap))
                    items.append(self._call(tag.name))
                    last = Kind.FUNCTION_END
                case Kind.FUNCTION_END | Kind.CALL_END if last is Kind.FUNCTION_END:
                    last = tag.kind
                case _:
                    raise _UncertainError
        rest = self._text[self._at :]
        _require(bool(items) and last is not Kind.CALL)
        if last is Kind.FUNCTION_END and Kind.CALL_END.value.startswith(rest.strip()):
            return items  # the reply was cut in the last tag
        _require(not self._guessed or not rest.strip())
        return [*items, rest]

    def _json_call(self) -> ParsedCall | None:
        """The JSON object that follows; None if a function does."""
        body = self._text[self._at :].lstrip() if self._has_json() else ""
        if not body:
            _require((tag := self._peek()) is not None and tag.kind is Kind.FUNCTION)
            _require(tag is not None and not self._gap(tag))
            return None
        try:
            _, length = json.JSONDecoder(strict=False).raw_decode(body)
        except (ValueError, RecursionError):
            raise _UncertainError from None
        call = parse_json(body[:length])
        if call is None or call.name not in self._schemas:
            raise _UncertainError
        self._at = len(self._text) - len(body) + length
        while (tag := self._peek()) and tag.start < self._at:
            self._next += 1
        return call

    def _has_json(self) -> bool:
        tag = self._peek()
        return self._text[self._at : tag.start if tag else None].lstrip().startswith("{")

    def _call(self, name: str) -> ParsedCall:
        _require(name in self._schemas)
        types = self._schemas[name]
        function = Function(name)
        while True:
            tag = self._peek()
            if tag is None or self._gap(tag):
                raise _UncertainError
            if tag.kind is Kind.PARAMETER:
                self._advance()
                self._value(tag, function, types)
                continue
            if tag.kind is Kind.FUNCTION_END:
                self._advance()
            else:  # without its end a function is whole if it has parameters, or can have none
                whole = bool(function.parameters) or (tag.kind is Kind.CALL_END and not types)
                _require(tag.kind in _AFTER_FUNCTION and whole)
            call = to_call(self._text, function, self._schemas)
            if call is None:
                raise _UncertainError
            return call

    def _value(self, key: Tag, function: Function, types: Mapping[str, object]) -> None:
        """Add the value that starts here. What ends it is read, unless that is missing."""
        tag = self._peek()
        if tag is None:
            raise _UncertainError
        given = {key.name, *(name for name, *_ in function.parameters)}
        new = tag.kind is Kind.PARAMETER and tag.name in types and tag.name not in given
        ends = new or (tag.kind is Kind.FUNCTION_END and self._ends_function())
        value = Value(_AFTER_VALUE)
        closed = self._closing_index(value)
        if closed is None:
            _require(ends and self._on_its_line(tag))
            function.parameters.append((key.name, key.end, tag.start))
            self._at = tag.start
            self._guessed += 1
            _require(self._guessed <= _MAX_GUESSED)
            return
        function.parameters.append((key.name, key.end, value.end))
        function.loose += value.loose
        self._next, self._at = closed, self._tags[closed - 1].end

    def _closing_index(self, value: Value) -> int | None:
        """The index of the tag that follows the value; None if no tag ends it."""
        at = self._at
        for index in range(self._next, len(self._tags)):
            tag = self._tags[index]
            match value.take(tag, self._text[at : tag.start]):
                case Step.CLOSED:
                    return index
                case Step.AMBIGUOUS:
                    return None
            at = tag.end
        return None

    def _ends_function(self) -> bool:
        """Whether the call ends, or another begins, after the next tag."""
        if self._next + 1 == len(self._tags):
            return False
        tag, after = self._tags[self._next : self._next + 2]
        return after.kind in _AFTER_FUNCTION and not self._text[tag.end : after.start].strip()

    def _on_its_line(self, tag: Tag) -> bool:
        """Whether a value lies before the tag, on one line or with the tag on a line of its own."""
        value = self._text[self._at : tag.start]
        own = "\n" not in value or value[0] == "\n" == value.rstrip(" \t")[-1]
        return own and bool(value.strip())

    def _peek(self) -> Tag | None:
        return self._tags[self._next] if self._next < len(self._tags) else None

    def _gap(self, tag: Tag) -> str:
        """The text before the next tag; empty if it is whitespace."""
        gap = self._text[self._at : tag.start]
        return gap if gap.strip() else ""

    def _advance(self) -> None:
        self._at = self._tags[self._next].end
        self._next += 1


def _end(text: str) -> str:
    """The whitespace at the end of a text."""
    return text[len(text.rstrip()) :]


def _require(condition: bool) -> None:
    if not condition:
        raise _UncertainError
