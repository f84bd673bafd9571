"""A text cut into sections, each short enough to be parsed and laid out within a frame.

Where a section ends depends on the text alone, not on the pieces in which it arrives: a reply that
was streamed has the sections of the same reply out of the library.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SHORTEST = 1_200  # characters, from which a section ends at the next place that is safe
LONGEST = 4_000  # characters, at which a section is cut wherever that does the least harm
MOST_LINES = 200  # at which it is cut as well
# So that the parser takes a part of a frame for a section: its time grows with some of these faster
# than with their number.
MOST_MARKS = 400
MOST_BRACKETS = 200
MOST_CELLS = 1_000

_FENCE = re.compile(
    r"^([ \t]*+)((?:[-*+>] |\d{1,9}[.)] )?)[ \t]*(`{3,}+|~{3,}+)[ \t]*+([^`\n]*+)\n", re.MULTILINE
)
# An empty line ends every list and every quote if the next line is not indented and is no item.
_SAFE = re.compile(r"\n[ \t]*\n(?=[^\s\-*+\d]|[-*+][^\s]|\d+[^\d.)])")
_LIMITS = tuple(
    re.compile(rf"(?:[^{marks}]*+[{marks}]){{{most}}}")
    for marks, most in (
        (r"\n", MOST_LINES),
        (r"\[\]*_~`<&$\\", MOST_MARKS),
        (r"\[", MOST_BRACKETS),
        (r"|", MOST_CELLS),
    )
)
_MANY_LINES = _LIMITS[0]
_ITEM = re.compile(r"\n(?=(?:[-*+]|\d{1,9}[.)])[ \t])")
_PLACES = (re.compile(r"[.!?;:] |[。！？；：，、]"), re.compile(" "))
_PAIRS = ("`", "**", "~~", "$")


@dataclass(slots=True, eq=False)
class Fence:
    """A block of code that is longer than a section.

    Attributes:
        marker: closes it, alone on a line.
        language: what follows the marker that opens it.
        indent: spaces at the start of each line that are not part of the code.
        start, end: the code's place in the text; `end` is -1 until it is closed.
        cut: one of its lines was cut.
    """

    marker: str
    language: str
    indent: int
    start: int
    end: int = -1
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a text.

    Attributes:
        source: the piece as it was written; of a long block of code, the code alone.
        start, end: its place in the text, with what separates it from the next one.
        joined: it continues the section before it, which was cut.
        within_line: that one was cut within a line.
        tail: the space at which it was cut itself, if that is within a line.
        table: the head of the table that it continues; "" if it continues none.
        fence: the long block of code that it belongs to.
    """

    source: str
    start: int
    end: int
    joined: bool = False
    within_line: bool = False
    tail: str = ""
    table: str = ""
    fence: Fence | None = None


class Piece(NamedTuple):
    """A piece of a plain text.

    Attributes:
        start: its place in the text.
        joined: it continues a line of the piece before it.
    """

    text: str
    start: int
    joined: bool


class Sections:
    """Cuts a text that may grow.

    Attributes:
        text: all of it.
    """

    def __init__(self) -> None:
        self.text = ""
        self._open = 0  # where the last section starts
        self._fence: Fence | None = None  # the long block of code that is open
        # About the last section, as for `Section`.
        self._joined = self._within_line = False
        self._table = ""

    def feed(self, text: str) -> list[Section]:
        """Add to the text. Returns the sections that are complete now."""
        self.text += text
        return list(self._complete(last=False))

    def finish(self) -> list[Section]:
        """The sections that are left, at the end of the text."""
        found = list(self._complete(last=True))
        if self._fence is not None:
            self._fence.end = len(self.text)
        if self._open < len(self.text):
            found.append(self.rest())
            self._open = len(self.text)
        return found

    def rest(self) -> Section:
        """The open section, as it is now."""
        source, fence = self.text[self._open :], self._fence
        if fence is not None:
            source = unindented(source, fence.indent)
        end = len(self.text)
        return Section(
            source, self._open, end, self._joined, self._within_line, "", self._table, fence
        )

    def _complete(self, *, last: bool) -> Iterator[Section]:
        while True:
            section = self._next() if self._fence is None else self._code(self._fence, last=last)
            if section is None:
                return
            self._open = section.end
            yield section

    def _window(self, limits: Sequence[re.Pattern[str]]) -> tuple[str, int]:
        """What may be in the next section and one character more, and the section's end.

        The end is -1 while the text is too short for one.
        """
        window = self.text[self._open : self._open + LONGEST + 1]
        found = (limit.match(window) for limit in limits)
        end = min((match.end() for match in found if match), default=LONGEST)
        return window[: end + 1], end if end < len(window) else -1

    def _next(self) -> Section | None:
        """The next section outside a long block of code; None if it is still open."""
        window, end = self._window(_LIMITS)
        at = 0
        while True:
            fence = _FENCE.search(window, at)
            until = fence.start() if fence else len(window)
            if safe := next(_safe_places(window, max(at, SHORTEST), until), None):
                return self._section(window[: safe.start()], safe.end())
            if fence is None:
                break
            own = not fence[1] and not fence[2]  # it is in no list
            if own and until >= SHORTEST:
                return self._section(window[:until], until)
            close = _closing_line(fence[3]).search(window, fence.end() - 1)
            if close is None:
                break
            at = close.end() - 1
            if own and at >= SHORTEST:
                return self._section(window[:at], at + 1)
        if end < 0:
            return None
        return self._before_fence(window, fence) if fence else self._cut(window[:end], at)

    def _section(
        self,
        source: str,
        length: int,
        *,
        joined: bool = False,
        within_line: bool = False,
        tail: str = "",
        table: str = "",
    ) -> Section:
        """A section of `length` characters. All other flags than `tail` are for the next one."""
        start, end = self._open, self._open + length
        section = Section(source, start, end, self._joined, self._within_line, tail, self._table)
        self._joined, self._within_line, self._table = joined, within_line, table
        return section

    def _cut(self, window: str, after: int) -> Section:
        """Cut where it does the least harm, after the last block of code.

        Before a block, an item of a list, a line, a sentence, a word; none of the last two between
        a pair of marks.
        """
        half = max(len(window) // 2, after)
        safe = list(_SAFE.finditer(window, half))
        items = [match.start() for match in _ITEM.finditer(window, max(len(window) // 4, after))]
        if safe:
            return self._section(window[: safe[-1].start()], safe[-1].end())
        at = items[-1] if items else window.rfind("\n", max(after, 1))
        if at > 0:
            block = window.rfind("\n\n", 0, at) + 2
            table = self._table if block == 1 else _table_head(window[max(block, 0) : at])
            if block == 1 and not table:
                table = _table_head(window[:at])
            return self._section(window[:at], at + 1, joined=True, table=table)
        at = _place(window)
        space = window[at - 1] == " "
        return self._section(
            window[: at - space], at, joined=True, within_line=True, tail=" " * space
        )

    def _before_fence(self, window: str, fence: re.Match[str]) -> Section:
        """What is before a block of code that does not fit, which comes next."""
        indent = len(fence[1] + fence[2])
        start = self._open + fence.end()
        self._fence = Fence(fence[3], fence[4].strip(), indent, start)
        return self._section(window[: fence.start()] + fence[2].rstrip(), fence.end())

    def _code(self, fence: Fence, *, last: bool) -> Section | None:
        """The next section of a long block of code; None if it is still open."""
        window, limit = self._window([_MANY_LINES])
        close = _closing_line(fence.marker, last=last).search("\n" + window)
        if close is not None:
            code = window[: max(close.start() - 1, 0)]
            end = self._open + close.end() - 1
            fence.end = self._open + close.start()
            self._fence, self._joined, self._within_line, self._table = None, False, False, ""
        elif limit < 0:
            return None
        else:
            at = window.rfind("\n", 1, limit)
            fence.cut = fence.cut or at < 0
            code = window[:at] if at > 0 else window[:limit]
            end = self._open + (at + 1 if at > 0 else limit)
        return Section(unindented(code, fence.indent), self._open, end, fence=fence)


def settled(source: str) -> tuple[int, re.Match[str] | None]:
    """How much of an open section cannot change any more, and the block of code open after it."""
    at = end = 0
    while True:
        fence = _FENCE.search(source, at)
        for safe in _safe_places(source, at, fence.start() if fence else len(source)):
            end = safe.end()
        if fence is None:
            return end, None
        own = not fence[1] and not fence[2]
        close = _closing_line(fence[3]).search(source, fence.end() - 1)
        if close is None:
            return (fence.start(), fence) if own else (end, None)
        at = close.end() - 1
        if own:
            end = close.end()


def fenced_code(text: str) -> list[str]:
    """The blocks of code between fences. The last one may be open."""
    text = text if text.endswith("\n") else text + "\n"
    found: list[str] = []
    at = 0
    while (fence := _FENCE.search(text, at)) is not None:
        close = _closing_line(fence[3]).search(text, fence.end() - 1)
        end = close.start() + 1 if close else len(text)
        found.append(unindented(text[fence.end() : end], len(fence[1] + fence[2])))
        at = close.end() - 1 if close else end
    return found


def pieces(text: str) -> Iterator[Piece]:
    """A plain text in pieces of at most `LONGEST` characters, if possible of whole lines."""
    at, joined = 0, False
    while at < len(text):
        window = text[at : at + LONGEST]
        if lines := _MANY_LINES.match(window):
            window = window[: lines.end()]
        elif at + LONGEST >= len(text):
            break
        cut = window.rfind("\n")
        yield Piece(window[:cut] if cut >= 0 else window, at, joined)
        at, joined = (at + cut + 1, False) if cut >= 0 else (at + LONGEST, True)
    if at < len(text) or not at:
        yield Piece(text[at:], at, joined)


def _closing_line(marker: str, *, last: bool = False) -> re.Pattern[str]:
    """The line that closes a fence, with the line breaks around it.

    Args:
        last: the text ends here, so the second line break may be missing.
    """
    end = r"(?:\n|\Z)" if last else r"\n"
    return re.compile(rf"\n[ \t]*{marker[0]}{{{len(marker)},}}[ \t]*{end}")


def _safe_places(text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """The places after which a block begins, outside of formulas that have empty lines."""
    for place in _SAFE.finditer(text, start, end):
        at = place.start()
        if text.count("$$", 0, at) % 2 == 0 and text.count("\\[", 0, at) <= text.count(
            "\\]", 0, at
        ):
            yield place


def _place(line: str) -> int:
    """Where a long line is cut."""
    for places in _PLACES:
        ends = [match.end() for match in places.finditer(line, len(line) // 2)]
        for end in reversed(ends[-20:]):
            if not any(line.count(mark, 0, end) % 2 for mark in _PAIRS):
                return end
    return line.rfind(" ", 1) + 1 or len(line)


def _table_head(block: str) -> str:
    """The first two lines of a table; "" if `block` is none."""
    lines = block.split("\n", 2)
    if len(lines) < 3 or "|" not in lines[0] or "-" not in lines[1]:
        return ""
    return f"{lines[0]}\n{lines[1]}\n" if not lines[1].strip("-:| \t") else ""


def unindented(code: str, indent: int) -> str:
    """`code` without the first `indent` spaces of each line."""
    return re.sub(rf"^[ \t]{{1,{indent}}}", "", code, flags=re.MULTILINE) if indent else code
