"""A section of Markdown into blocks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

from textual.content import Content, Span
from textual.style import Style

from qwen35_chat.drawing.line import BLANK, Line, one_row, sourced
from qwen35_chat.drawing.lines import Code, Paragraph, Rule, Table, TextBlock, action
from qwen35_chat.drawing.source_lines import Kind, SourceLine, SourceText

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

# What is nested deeper, or has more marks or cells than any text that is meant to be read, is shown
# as it was written: the parser would drop it, or take seconds.
DEEPEST = 40
MOST_MARKS = 1_000
MOST_BRACKETS = 200
MOST_CELLS = 2_000
WEB = ("https://", "http://")
_MARKS = str.maketrans("", "", "[]*_~`<&")
_STYLES = {"strong": "bold", "em": "italic", "s": "strike"}


@cache
def _parser() -> "MarkdownIt":
    # Imported with the first reply: a start of the app does not wait for it.
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"maxNesting": DEEPEST})


@dataclass(frozen=True, slots=True)
class Placed:
    """A block, and the lines of the source that it shows.

    Attributes:
        first, end: these lines, without the fences of code; none of a block that shows none.
    """

    block: TextBlock
    kind: Kind = "prose"
    first: int = 0
    end: int = 0

    def lines(self, width: int, text: SourceText) -> list[Line]:
        """Its lines in `width` cells; `text` is its source."""
        lines = self.block.lines(width)
        rows = 1 + max((line.row for line in lines), default=-1)
        if self.first >= self.end or not rows:
            return lines
        if self.kind == "prose" and rows != self.end - self.first:
            whole = text.line(self.first, self.end, text.start(self.first), self.kind)
            return sourced(one_row(lines), [whole])
        return sourced(lines, self._rows(rows, text))

    def _rows(self, rows: int, text: SourceText) -> list[SourceLine]:
        block, indent = text.start(self.first), 0
        numbers = [self.first + n for n in range(rows)]
        if isinstance(self.block, Code):
            code = self.block.code.split("\n")
            pairs = zip(code, text.lines[self.first :], strict=False)
            indent = max((len(line) - len(shown) for shown, line in pairs if shown), default=0)
        elif self.kind == "table":  # the line below the head is no row
            numbers = [number + (n > 0) for n, number in enumerate(numbers)]
        return [text.line(n, n + 1, block, self.kind, indent) for n in numbers]


def blocks(
    source: str, references: Mapping[str, Any], *, numbered: bool, table: str = ""
) -> Iterator[Placed]:
    """The blocks of a text, with an empty line between those at its top.

    Args:
        references: the addresses of links (`references_of`).
        numbered: whether its code can be copied.
        table: the head of the table that the text continues.
    """
    tree = None if _unreadable(source) else _tree(table + source, references)
    if tree is None or not tree.children:
        shown = source.strip("\n")
        first = len(source) - len(source.lstrip("\n"))
        yield Placed(Paragraph(Content(shown)), first=first, end=first + shown.count("\n") + 1)
        return
    numbers = count() if numbered else repeat(None)
    above = table.count("\n")  # lines that are not of `source`
    for n, node in enumerate(tree.children):
        if n:
            yield Placed(Paragraph(BLANK))
        if node.type == "table":
            found = [_placed(_table(node, "", continued=not n and bool(table)), node, "table")]
        else:
            found = _block(node, "", "", numbers)
        for placed in found:
            yield replace(placed, first=placed.first - above, end=placed.end - above)


def references_of(definitions: str) -> Mapping[str, Any]:
    """The addresses that a text defines for its links."""
    env: dict[str, Any] = {}
    _parser().parse(definitions, env)
    return env.get("references", {})


def language_of(info: str) -> str:
    """The language of a block of code, by what follows the fence that opens it."""
    return info.split()[0] if info.strip() else ""


def _unreadable(source: str) -> bool:
    """Whether a text has more marks or cells than any that is meant to be read."""
    if source.count("[") > MOST_BRACKETS:
        return True
    if len(source) - len(source.translate(_MARKS)) > MOST_MARKS:
        return True
    lines = source.split("\n")
    return len(lines) * max(line.count("|") for line in lines) > MOST_CELLS


def _tree(source: str, references: Mapping[str, Any]) -> "SyntaxTreeNode | None":
    """The tree of a text; None if it is nested too deeply."""
    from markdown_it.tree import SyntaxTreeNode

    tokens = _parser().parse(source, {"references": dict(references)})
    if any(token.level >= DEEPEST - 1 for token in tokens):
        return None
    return SyntaxTreeNode(tokens)


def _block(
    node: "SyntaxTreeNode", first: str, rest: str, numbers: Iterator[int | None]
) -> Iterator[Placed]:
    match node.type:
        case "heading":
            yield _placed(Paragraph(_inline(node, ".heading"), first, rest), node)
        case "bullet_list" | "ordered_list":
            yield from _list(node, first, rest, numbers)
        case "blockquote":
            for child in node.children:
                yield from _block(child, f"{first}▏ ", f"{rest}▏ ", numbers)
                first = rest
        case "fence" | "code_block":
            code = Code(node.content, language_of(node.info), next(numbers), rest=rest)
            yield _placed(code, node, "code")
        case "hr":
            yield Placed(Rule(rest))
        case "table":
            yield _placed(_table(node, rest), node, "table")
        case "html_block":
            yield _placed(Paragraph(Content(node.content.rstrip("\n")), first, rest), node)
        case _:
            yield _placed(Paragraph(_inline(node), first, rest), node)


def _placed(block: TextBlock, node: "SyntaxTreeNode", kind: Kind = "prose") -> Placed:
    first, end = node.map or (0, 0)
    return Placed(block, kind, first + (node.type == "fence"), end)


def _list(
    node: "SyntaxTreeNode", first: str, rest: str, numbers: Iterator[int | None]
) -> Iterator[Placed]:
    number = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
    for item in node.children:
        mark = "• " if number is None else f"{number}. "
        indent = rest + " " * len(mark)
        head = first + mark
        if not item.children:
            yield _placed(Paragraph(BLANK, head, indent), item)
        for child in item.children:
            yield from _block(child, head, indent, numbers)
            head = indent
        first = rest
        number = None if number is None else number + 1


def _table(node: "SyntaxTreeNode", rest: str, *, continued: bool = False) -> Table:
    rows = [
        [_inline(cell) for cell in row.children] for part in node.children for row in part.children
    ]
    return Table(rows[0], rows[1:], rest, continued)


def _inline(node: "SyntaxTreeNode", style: str = "") -> Content:
    text = _Text()
    for child in node.children:
        if child.type == "inline":
            _walk(child, text)
    whole = text.joined() if node.children else node.content
    spans = [Span(0, len(whole), style), *text.spans] if style else text.spans
    return Content(whole, spans)


class _Text:
    """A text that grows, and its styles."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.length = 0
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self.length += len(piece)

    def joined(self, start: int = 0) -> str:
        """The text from the piece that starts at `start`."""
        at, first = self.length, len(self._pieces)
        while at > start:
            first -= 1
            at -= len(self._pieces[first])
        return "".join(self._pieces[first:])


def _walk(node: "SyntaxTreeNode", text: _Text) -> None:
    for child in node.children:
        start = text.length
        style: str | Style = _STYLES.get(child.type, "")
        match child.type:
            case "softbreak" | "hardbreak":  # a model means the line breaks that it writes
                text.add("\n")
            case "code_inline":
                text.add(child.content)
                style = ".code"
            case "image":
                text.add(f"{child.content or 'image'} ({child.attrs.get('src', '')})")
                style = ".muted"
            case "link":
                _walk(child, text)
                href = str(child.attrs.get("href", ""))
                shown = text.joined(start)
                # The model chose the address, so it is shown, and only a web page can be opened.
                if href.startswith(WEB):
                    style = action("open_link", href) + Style(underline=True)
                if shown != href:
                    text.add(f" ({href})")
            case _ if child.children:
                _walk(child, text)
            case _:
                text.add(child.content)
        if style:
            text.spans.append(Span(start, text.length, style))
