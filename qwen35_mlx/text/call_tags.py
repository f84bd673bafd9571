"""The tags of tool calls in a text, and where the value of a parameter ends among them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto


class Kind(Enum):
    """What a tag opens or closes."""

    CALL = "<tool_call>"
    CALL_END = "</tool_call>"
    FUNCTION = "<function="
    FUNCTION_END = "</function>"
    PARAMETER = "<parameter="
    PARAMETER_END = "</parameter>"


_MAX_NAME = 200  # characters; a longer name is text
_NAME = rf"([^<>\n]{{1,{_MAX_NAME}}})>"
_TAG = re.compile(
    rf"<tool_call>|</tool_call>|</function>|</parameter>|<function={_NAME}|<parameter={_NAME}"
)
_NAMED_START = re.compile(rf"<(?:function|parameter)=[^<>\n]{{0,{_MAX_NAME}}}")
_TAG_NAME = re.compile(rf"[^<>\n]{{1,{_MAX_NAME}}}")
_LONGEST = max(len(kind.value) for kind in Kind) + _MAX_NAME


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag at `start` to `end` of a text; `name` is that of a function or parameter."""

    kind: Kind
    name: str
    start: int
    end: int


def read_tags(text: str, offset: int = 0) -> Iterator[Tag]:
    """The complete tags of a text that stands at `offset`."""
    for match in _TAG.finditer(text):
        name = match[1] or match[2]
        kind = Kind(match[0][: -len(name) - 1] if name else match[0])
        yield Tag(kind, (name or "").strip(), offset + match.start(), offset + match.end())


def is_tag_name(name: object) -> bool:
    """Whether a tag with this name is read back with it."""
    return isinstance(name, str) and name == name.strip() and _TAG_NAME.fullmatch(name) is not None


def undecided(text: str) -> int:
    """Where the tag starts that the end of a text may be a part of; its length if there is none."""
    start = text.rfind("<", max(0, len(text) - _LONGEST))
    if start < 0:
        return len(text)
    rest = text[start:]
    fixed = any(kind.value.startswith(rest) and kind.value != rest for kind in Kind)
    return start if fixed or _NAMED_START.fullmatch(rest) else len(text)


class Step(Enum):
    """What a tag in a value means for the value."""

    OPEN = auto()  # the value goes on
    CLOSED = auto()  # it has ended before this tag
    AMBIGUOUS = auto()  # nobody can say where it ends


@dataclass(slots=True)
class Value:
    """Reads one value, tag by tag, and says where it ends.

    Functions and parameters that the value itself opens must close in it. Then </parameter> ends
    the value if one of the tags in `after` follows and, in a value of several lines, it starts or
    ends a line. One that looks like an end but is none is ambiguous: a tag is missing next to it,
    or the value holds it. Between other text on a line of a longer value it is part of the value.

    Attributes:
        after: the tags that may follow the value.
        end: where it ends, once it is closed.
        loose: the parameters opened in it outside any function.
    """

    after: tuple[Kind, ...]
    end: int = -1
    loose: list[str] = field(default_factory=list)
    _open: list[Kind] = field(default_factory=list)
    _close: Tag | None = None  # the last tag, if it may end the value
    _inline: bool | None = None  # the value starts on the line of its tag
    _starts_line: bool = False  # the last tag does
    _multiline: bool = False

    def take(self, tag: Tag, gap: str) -> Step:
        """Take the next tag and the text before it, from the last tag on."""
        if self._close is not None:
            self.end = self._close.start
            step = self._end(tag, gap)
            if step is not Step.OPEN:
                return step
        self._close = None
        if self._inline is None:
            self._inline, gap = not gap.startswith("\n"), gap.removeprefix("\n")
            self._starts_line = not self._inline and not gap.strip(" \t")
        else:
            self._starts_line = False
        self._starts_line |= gap.rstrip(" \t").endswith("\n")
        self._multiline |= "\n" in gap
        self._nest(tag)
        return Step.OPEN

    def _end(self, tag: Tag, gap: str) -> Step:
        space = gap[: len(gap) - len(gap.lstrip())]
        ends_line = "\n" in space
        if space == gap:
            if tag.kind is Kind.PARAMETER_END:
                return Step.AMBIGUOUS
            if tag.kind in self.after and (self._starts_line or ends_line or not self._multiline):
                return Step.CLOSED
        odd = self._inline or (self._starts_line and ends_line)
        return Step.AMBIGUOUS if odd else Step.OPEN

    def _nest(self, tag: Tag) -> None:
        innermost = self._open[-1] if self._open else None
        match tag.kind:
            case Kind.FUNCTION | Kind.PARAMETER:
                if innermost is None and tag.kind is Kind.PARAMETER:
                    self.loose.append(tag.name)
                self._open.append(tag.kind)
            case Kind.FUNCTION_END if innermost is Kind.FUNCTION:
                self._open.pop()
            case Kind.PARAMETER_END if innermost is Kind.PARAMETER:
                self._open.pop()
            case Kind.PARAMETER_END if innermost is None:
                self._close = tag


@dataclass(slots=True)
class Function:
    """A function as it was written: keys, and where their values start and end in the text.

    Attributes:
        loose: parameters that the values open outside any function of theirs.
    """

    name: str
    parameters: list[tuple[str, int, int]] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
