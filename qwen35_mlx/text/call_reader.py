"""Where a well-formed tool call ends, found while it streams in.

Each character is read a bounded number of times, whatever the text.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from qwen35_mlx.text.call_tags import Function, Kind, Step, Tag, Value, read_tags, undecided

_STRING_REST = re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)
# The tags that may follow a tag outside values.
_NEXT = {
    None: (Kind.CALL,),
    Kind.CALL: (Kind.FUNCTION,),
    Kind.FUNCTION: (Kind.PARAMETER, Kind.FUNCTION_END),
    Kind.PARAMETER_END: (Kind.PARAMETER, Kind.FUNCTION_END),
    Kind.FUNCTION_END: (Kind.CALL_END,),
}


class Outcome(Enum):
    """What a call turned out to be."""

    COMPLETE = auto()  # it has ended
    IRREGULAR = auto()  # a tag is missing, or there is one too many
    TEXT = auto()  # it is none


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome, and the length of the text that led to it."""

    outcome: Outcome
    length: int


class FunctionReader:
    """Reads `<tool_call><function=...>...</function></tool_call>`, of which no tag may be missing.

    Attributes:
        function: what was read of it.
        value: the value that is open, if any.
    """

    def __init__(self) -> None:
        self.function: Function | None = None
        self.value: Value | None = None
        self._key = ("", 0)  # of the open value, and where that starts
        self._last: Kind | None = None  # the last tag outside values
        self._tail = ""  # what may be the start of a tag
        self._base = 0  # where it stands
        self._gap: list[str] = []  # the text since the last tag

    def push(self, text: str) -> Found | None:
        """Add the next text; the outcome as soon as there is one."""
        text, base, at = self._tail + text, self._base, 0
        for tag in read_tags(text, base):
            found = self._plain(text[at : tag.start - base], base + at) or self._take(tag)
            if found is not None:
                return found
            at = tag.end - base
        end = undecided(text)
        self._tail, self._base = text[end:], base + end
        return self._plain(text[at:end], base + at)

    def _plain(self, text: str, start: int) -> Found | None:
        """Take text between tags. Outside values it is whitespace."""
        self._gap.append(text)
        if self.value is not None or not (rest := text.lstrip()):
            return None
        done = self._last is Kind.FUNCTION_END
        return Found(Outcome.IRREGULAR if done else Outcome.TEXT, start + len(text) - len(rest))

    def _take(self, tag: Tag) -> Found | None:
        gap, self._gap = "".join(self._gap), []
        if self.value is not None:
            match self.value.take(tag, gap):
                case Step.OPEN:
                    return None
                case Step.AMBIGUOUS:
                    return Found(Outcome.IRREGULAR, tag.start)
            self._close(self.value)
        if tag.kind not in _NEXT[self._last]:
            return Found(Outcome.TEXT if self.function is None else Outcome.IRREGULAR, tag.start)
        self._last = tag.kind
        match tag.kind:
            case Kind.FUNCTION:
                self.function = Function(tag.name)
            case Kind.PARAMETER:
                self._key = (tag.name, tag.end)
                self.value = Value((Kind.PARAMETER, Kind.FUNCTION_END))
            case Kind.CALL_END:
                return Found(Outcome.COMPLETE, tag.end)
        return None

    def _close(self, value: Value) -> None:
        assert self.function is not None
        key, start = self._key
        self.function.parameters.append((key, start, value.end))
        self.function.loose += value.loose
        self.value, self._last = None, Kind.PARAMETER_END


class JsonReader:
    """Reads `<tool_call>{...}</tool_call>` up to the first closing tag outside strings."""

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False  # the string so far ends in a backslash
        self._tail = ""
        self._base = 0

    def push(self, text: str) -> Found | None:
        """Add the next text; the outcome as soon as there is one."""
        text, base, at = self._tail + text, self._base, 0
        for tag in read_tags(text):
            self._read(text[at : tag.start])
            if not self._in_string and tag.kind is Kind.CALL_END:
                return Found(Outcome.COMPLETE, base + tag.end)
            if not self._in_string and base + tag.start and tag.kind is Kind.CALL:
                return Found(Outcome.IRREGULAR, base + tag.start)
            self._read(text[tag.start : tag.end])
            at = tag.end
        end = undecided(text)
        self._read(text[at:end])
        self._tail, self._base = text[end:], base + end
        return None

    def _read(self, text: str) -> None:
        at = 0
        while at < len(text):
            if not self._in_string:
                quote = text.find('"', at)
                if quote < 0:
                    return
                self._in_string, at = True, quote + 1
                continue
            if self._escaped:
                self._escaped, at = False, at + 1
            at = _STRING_REST.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]
            if text.startswith('"', at):
                self._in_string = False
            elif at < len(text):  # a backslash that ends the text
                self._escaped = True
            at += 1
