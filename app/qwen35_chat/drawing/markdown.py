"""Markdown into blocks: in one pass if it is complete, and piece by piece while it streams in."""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from textual.content import Content, Span
from textual.style import Style

from qwen35_chat.drawing.lines import BLANK, Code, Line, Paragraph, Rule, Table, TextBlock, action

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

# An open paragraph or list is parsed again with every piece, up to this length.
OPEN_CHARACTERS = 1_200
WEB = ("https://", "http://")
_FENCE = re.compile(
    r"^[ \t]*(?:[-*+>] |\d+[.)] )?[ \t]*(`{3,}|~{3,})[ \t]*([^`\n]*)$", re.MULTILINE
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_STYLES = {"strong": "bold", "em": "italic", "s": "strike"}


@cache
def _parser() -> "MarkdownIt":
    # Imported with the first reply: a start of the app does not wait for it.
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like")


class Markdown:
    """A complete text.

    Attributes:
        code_blocks: the code in it, as written.
    """

    def __init__(self, source: str):
        from markdown_it.tree import SyntaxTreeNode

        self.code_blocks: list[str] = []
        root = SyntaxTreeNode(_parser().parse(source))
        self._blocks = _spaced(list(self._block(node, "", "")) for node in root.children)

    def lines(self, width: int) -> list[Line]:
        return [line for block in self._blocks for line in block.lines(width)]

    @property
    def uncoloured(self) -> list[Code]:
        """Its code without colours yet."""
        return [block for block in self._blocks if isinstance(block, Code) and block.uncoloured]

    def _block(self, node: "SyntaxTreeNode", first: str, rest: str) -> Iterator[TextBlock]:
        match node.type:
            case "heading":
                yield Paragraph(_inline(node, ".heading"), first, rest)
            case "bullet_list" | "ordered_list":
                yield from self._list(node, first, rest)
            case "blockquote":
                for child in node.children:
                    yield from self._block(child, f"{first}▏ ", f"{rest}▏ ")
                    first = rest
            case "fence" | "code_block":
                language = node.info.split()[0] if node.info.strip() else ""
                self.code_blocks.append(node.content)
                yield Code(node.content, language, len(self.code_blocks) - 1, rest=rest)
            case "hr":
                yield Rule(rest)
            case "table":
                rows = [
                    [_inline(cell) for cell in row.children]
                    for part in node.children
                    for row in part.children
                ]
                yield Table(rows[0], rows[1:], rest)
            case "html_block":
                yield Paragraph(Content(node.content.rstrip("\n")), first, rest)
            case _:
                yield Paragraph(_inline(node), first, rest)

    def _list(self, node: "SyntaxTreeNode", first: str, rest: str) -> Iterator[TextBlock]:
        number = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
        for item in node.children:
            mark = "• " if number is None else f"{number}. "
            indent = rest + " " * len(mark)
            head = first + mark
            if not item.children:
                yield Paragraph(BLANK, head, indent)
            for child in item.children:
                yield from self._block(child, head, indent)
                head = indent
            first = rest
            number = None if number is None else number + 1


def _spaced(groups: Iterator[list[TextBlock]]) -> list[TextBlock]:
    blocks: list[TextBlock] = []
    for group in groups:
        if blocks:
            blocks.append(Paragraph(BLANK))
        blocks += group
    return blocks


def _inline(node: "SyntaxTreeNode", style: str = "") -> Content:
    text: list[str] = []
    spans: list[Span] = []
    for child in node.children:
        if child.type == "inline":
            _walk(child, text, spans)
    whole = "".join(text)
    if not node.children:
        whole = node.content
    if style:
        spans.insert(0, Span(0, len(whole), style))
    return Content(whole, spans)


def _walk(node: "SyntaxTreeNode", text: list[str], spans: list[Span]) -> None:
    for child in node.children:
        start = sum(map(len, text))
        style: str | Style = _STYLES.get(child.type, "")
        match child.type:
            case "softbreak" | "hardbreak":  # a model means the line breaks that it writes
                text.append("\n")
            case "code_inline":
                text.append(child.content)
                style = ".code"
            case "image":
                text.append(f"{child.content or 'image'} ({child.attrs.get('src', '')})")
                style = ".muted"
            case "link":
                _walk(child, text, spans)
                href = str(child.attrs.get("href", ""))
                shown = "".join(text)[start:]
                # The model chose the address, so it is shown, and only a web page can be opened.
                if href.startswith(WEB):
                    style = action("open_link", href) + Style(underline=True)
                if shown != href:
                    text.append(f" ({href})")
            case _ if child.children:
                _walk(child, text, spans)
            case _:
                text.append(child.content)
        if style:
            spans.append(Span(start, sum(map(len, text)), style))


class StreamingMarkdown:
    """A text that is being written. Its complete blocks are laid out once.

    A block ends at an empty line. An open fence is plain text, line by line; any other open block
    is parsed again with each piece. A complete text is left to `Markdown`.
    """

    def __init__(self) -> None:
        self._open = ""
        self._fence = ""  # the marker that opened a block of code
        self._language = ""
        self._head = False  # the line above the code is still to be drawn
        self._new_paragraph = True  # what comes next begins a paragraph
        self._done: list[TextBlock] = []
        self._lines: list[Line] = []
        self._drawn = 0  # blocks of `_done` that are in `_lines`
        self._width = 0

    def feed(self, text: str) -> None:
        self._open += text
        while self._close_one():
            pass

    def lines(self, width: int) -> list[Line]:
        if width != self._width:
            self._width, self._lines, self._drawn = width, [], 0
        for block in self._done[self._drawn :]:
            self._lines += block.lines(width)
        self._drawn = len(self._done)
        return self._lines + [line for block in self._tail() for line in block.lines(width)]

    def _close_one(self) -> bool:
        """Move a block from what is open to what is done; False if none is complete."""
        if self._fence:
            return self._close_code()
        blank = _BLANK_LINE.search(self._open)
        fence = _FENCE.search(self._open)
        if fence and (
            self._open.find("\n", fence.end()) < 0 or (blank and blank.end() <= fence.start())
        ):
            fence = None
        if fence:
            self._close_text(self._open[: fence.start()])
            self._open = self._open[fence.end() + 1 :]
            self._fence, self._language = fence.group(1), fence.group(2).strip()
            self._space()
            self._head = True
            return True
        if blank:
            self._close_text(self._open[: blank.start()])
            self._open = self._open[blank.end() :]
            return True
        if len(self._open) > OPEN_CHARACTERS:
            end = self._open.rfind("\n")
            end = end if end > 0 else self._open.rfind(" ")
            if end > 0:
                self._close_text(self._open[:end])
                self._open = self._open[end + 1 :]
                self._new_paragraph = False
                return True
        return False

    def _close_code(self) -> bool:
        end = re.search(rf"^[ \t]*{self._fence}{self._fence[0]}*[ \t]*$", self._open, re.MULTILINE)
        if end and self._open.find("\n", end.end() - 1) >= 0:
            self._done.append(self._code(self._open[: end.start()]))
            self._open = self._open[end.end() + 1 :]
            self._fence = ""
            return True
        if end or "\n" not in self._open:
            return False
        line, _, self._open = self._open.partition("\n")
        self._done.append(self._code(line))
        return True

    def _code(self, code: str) -> Code:
        block = Code(code, self._language.split(" ")[0], head=self._head)
        self._head = False
        return block

    def _close_text(self, source: str) -> None:
        if source.strip():
            self._space()
            self._done.append(Markdown(source))

    def _space(self) -> None:
        if self._done and self._new_paragraph:
            self._done.append(Paragraph(BLANK))
        self._new_paragraph = True

    def _tail(self) -> list[TextBlock]:
        if self._fence:
            return [Code(self._open, self._language.split(" ")[0], head=self._head)]
        if not self._open.strip():
            return []
        space: list[TextBlock] = [Paragraph(BLANK)] if self._done and self._new_paragraph else []
        return [*space, Markdown(self._open)]
