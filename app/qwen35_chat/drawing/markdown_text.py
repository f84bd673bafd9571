"""A text of Markdown as parts: complete, or while it is being written."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from qwen35_chat.drawing.line import EMPTY_LINE, Line, joined_line, sourced
from qwen35_chat.drawing.lines import Code, CodeLines
from qwen35_chat.drawing.markdown import Placed, blocks, language_of, references_of
from qwen35_chat.drawing.parts import Part, estimate
from qwen35_chat.drawing.sections import LONGEST, Section, Sections, settled, unindented
from qwen35_chat.drawing.source_lines import SourceLine, SourceText

MOST_DEFINITIONS = 100
_DEFINITION = re.compile(r"^ {0,3}\[(?!\^)[^\]\n]+\]:[ \t]*\S[^\n]*$", re.MULTILINE)


class MarkdownText:
    """A text as parts, each of which is parsed when it is laid out.

    Args:
        margin: cells before each line.
        style: of the whole text.
        stream: its number in `TranscriptEntry.sources`.
    """

    def __init__(self, margin: int = 0, style: str = "", stream: int = 0):
        self._sections = Sections()
        self._source = _Source(stream, self._sections)
        self._margin = margin
        self._style = style
        self._closed: list[Part] = []
        self._open = _OpenPart(self._source, margin, style)
        self._code: Code | None = None  # the long block of code of the last section
        self._code_line = 0  # the line in it at which the next section begins
        self._references: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """All of it, as it was written."""
        return self._sections.text

    def feed(self, text: str) -> None:
        """Add to the text."""
        self._add(self._sections.feed(text))
        rest = self._sections.rest()
        self._open.show(rest, gap=self._gap(rest))

    def finish(self) -> None:
        """End the text."""
        self._add(self._sections.finish())
        self._open = _OpenPart(self._source, self._margin, self._style)
        self._define()

    @property
    def parts(self) -> Sequence[Part]:
        """Its parts; the last one may still change."""
        return [*self._closed, self._open] if self._open.used else self._closed

    def _gap(self, section: Section) -> bool:
        return not section.joined and bool(self._closed)

    def _add(self, sections: Sequence[Section]) -> None:
        for section in sections:
            if section.fence is not None:
                part = self._code_part(section)
                if section.start != section.fence.end:  # the last one may hold no line
                    self._closed.append(part)
            elif section.source.strip():
                blocks = _Parsed(section, self._source, self._references, numbered=True)
                gap = self._gap(section)
                self._closed.append(self._part(section, blocks, gap))

    def _code_part(self, section: Section) -> Part:
        fence = section.fence
        assert fence is not None
        if section.start == fence.start or self._code is None:
            self._code, self._code_line = Code("", language_of(fence.language)), 0
        code, first = self._code, section.start == fence.start
        lines = CodeLines(code, section.source, self._code_line, head=first)
        self._code_line += section.source.count("\n") + 1
        if fence.end >= 0:
            text = unindented(self._sections.text[fence.start : fence.end], fence.indent)
            code.close(text, whole_lines=not fence.cut)
        gap = first and bool(self._closed)
        body = _Fenced(section, self._source, lines)
        return self._part(section, body, gap)

    def _part(self, section: Section, body: "_Parsed | _Fenced", gap: bool) -> Part:
        return _SectionPart(section, self._source, body, self._margin, self._style, gap)

    def _define(self) -> None:
        """Resolve links whose addresses are elsewhere in the text."""
        lines = (match.group() for match in _DEFINITION.finditer(self._sections.text))
        source = "\n".join(islice(lines, MOST_DEFINITIONS))
        if not source:
            return
        self._references.update(references_of(source[:LONGEST]))
        for part in self._closed:
            part.forget()


class _Source:
    """Where the sections of a text are in it.

    Args:
        stream: as for `MarkdownText`.
    """

    def __init__(self, stream: int, sections: Sections):
        self.stream = stream
        self._sections = sections

    def of(self, section: Section, start: int = 0) -> SourceText:
        """A section as it was written, from a character of it on."""
        start += section.start
        return SourceText(self.stream, self._sections.text[start : section.end], start)


class _Parsed:
    """The blocks of a section, parsed when they are first needed."""

    def __init__(
        self, section: Section, source: _Source, references: Mapping[str, Any], *, numbered: bool
    ):
        self._section = section
        self._source = source
        self._references = references
        self._numbered = numbered
        self._resolved = 0
        self._blocks: list[Placed] | None = None

    @property
    def codes(self) -> list[Code]:
        blocks = [placed.block for placed in self._blocks or ()]
        return [block for block in blocks if isinstance(block, Code)]

    def lines(self, width: int) -> list[Line]:
        if self._blocks is None or self._resolved != len(self._references):
            self._resolved = len(self._references)
            section = self._section
            made = blocks(
                section.source, self._references, numbered=self._numbered, table=section.table
            )
            self._blocks = list(made)
        text = self._source.of(self._section)
        return [line for block in self._blocks for line in block.lines(width, text)]


class _Fenced:
    """The lines of a section within a long block of code."""

    def __init__(self, section: Section, source: _Source, lines: CodeLines):
        self._section = section
        self._source = source
        self._lines = lines

    @property
    def codes(self) -> list[Code]:
        return self._lines.codes

    def lines(self, width: int) -> list[Line]:
        fence = self._section.fence
        assert fence is not None
        text = self._source.of(self._section)
        return sourced(self._lines.lines(width), _code_rows(text, fence.start, fence.indent))


class _SectionPart(Part):
    """A complete section.

    Args:
        gap: whether an empty line comes first.
    """

    def __init__(
        self,
        section: Section,
        source: _Source,
        body: _Parsed | _Fenced,
        margin: int,
        style: str,
        gap: bool,
    ):
        super().__init__((source.stream, section.start))
        self._section = section
        self._body = body
        self._margin = margin
        self._style = style
        self._gap = gap

    @property
    def codes(self) -> Sequence[Code]:
        return self._body.codes if self.laid_out else ()

    def _layout(self, width: int) -> list[Line]:
        lines = self._body.lines(max(width - self._margin, 1))
        return _framed(lines, self._section, self._margin, self._style, self._gap)

    def _estimate(self, width: int) -> int:
        return estimate(self._section.source, width - self._margin) + self._gap


class _OpenPart(Part):
    """The section that is being written. What cannot change any more in it is laid out once."""

    def __init__(self, source: _Source, margin: int, style: str):
        super().__init__((source.stream, 0))
        self._source = source
        self._margin = margin
        self._style = style
        self._section = Section("", 0, 0)
        self._gap = False
        self._head = ""
        self._head_lines: list[Line] = []
        self._code = ""  # the code whose lines are in `_code_lines`
        self._code_lines: list[Line] = []
        self._made_for = (-1, -1)  # start of the section, and width

    @property
    def used(self) -> bool:
        return bool(self._section.source.strip()) or self._section.fence is not None

    def show(self, section: Section, *, gap: bool) -> None:
        self._section, self._gap = section, gap
        self.place = self._source.stream, section.start
        self.forget()

    def _estimate(self, width: int) -> int:
        return estimate(self._section.source, width - self._margin) + self._gap

    def _layout(self, width: int) -> list[Line]:
        section = self._section
        if self._made_for != (section.start, width):
            self._made_for = section.start, width
            self._head, self._head_lines, self._code, self._code_lines = "", [], "", []
        room = max(width - self._margin, 1)
        gap = self._gap
        if section.fence is not None:
            first = section.start == section.fence.start
            rows = _code_rows(self._source.of(section), section.fence.start, section.fence.indent)
            lines = self._code_so_far(
                section.source, section.fence.language, rows, room, head=first
            )
            gap = first and gap
        else:
            lines = self._text_so_far(section, room)
        return _framed(lines, section, self._margin, self._style, gap)

    def _text_so_far(self, section: Section, width: int) -> list[Line]:
        end, fence = settled(section.source)
        if end != len(self._head):
            # Each part of it is complete by itself, and has been drawn once.
            new = self._parsed(section, len(self._head), end, width)
            if self._head_lines and new:
                self._head_lines.append(EMPTY_LINE)
            self._head_lines += new
            self._head, self._code = section.source[:end], ""
        lines = list(self._head_lines)
        if fence is not None:
            text = self._source.of(section, fence.end())
            rows = _code_rows(text, text.start(0))
            code = section.source[fence.end() :]
            tail = self._code_so_far(code, fence[4].strip(), rows, width)
        else:
            tail = self._parsed(section, end, len(section.source), width)
        if lines and tail:
            lines.append(EMPTY_LINE)
        return lines + tail

    def _parsed(self, section: Section, start: int, end: int, width: int) -> list[Line]:
        source = section.source[start:end]
        if not source.strip():
            return []
        table = "" if self._head else section.table
        piece = Section(source, section.start + start, section.start + end, table=table)
        return _Parsed(piece, self._source, {}, numbered=False).lines(width)

    def _code_so_far(
        self,
        code: str,
        language: str,
        rows: Sequence[SourceLine],
        width: int,
        *,
        head: bool = True,
    ) -> list[Line]:
        whole = Code("", language_of(language))
        if not code.startswith(self._code) or not self._code:
            self._code = ""
            self._code_lines = [whole.header(width)] if head else []
        end = code.rfind("\n") + 1
        new = code[len(self._code) : end].removesuffix("\n")
        if end > len(self._code):
            row = self._code.count("\n")
            self._code_lines += sourced(CodeLines(whole, new, 0).lines(width), rows[row:])
            self._code = code[:end]
        return self._code_lines + sourced(CodeLines(whole, code[end:], 0).lines(width), rows[-1:])


def _code_rows(text: SourceText, block: int, indent: int = 0) -> list[SourceLine]:
    """Each line of code; `block` and `indent` as for `SourceLine`."""
    return [text.line(n, n + 1, block, "code", indent) for n in range(len(text.lines))]


def _framed(
    lines: Sequence[Line], section: Section, margin: int, style: str, gap: bool
) -> list[Line]:
    """The lines of a section, with what the text around it adds to them."""
    framed = list(lines)
    if section.within_line and framed:
        framed[0] = joined_line(framed[0])
    if section.tail and framed:
        framed[-1] = framed[-1].before(section.tail)
    if margin or style:
        framed = [line.after(" " * margin, style) for line in framed]
    return [EMPTY_LINE, *framed] if gap and framed else framed
