"""A section of Markdown into blocks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

from textual.content import Content, Span
from textual.style import Style

from qwen35_chat.drawing.formulas import Formula, in_text
from qwen35_chat.drawing.line import BLANK, SOURCE
from qwen35_chat.drawing.lines import Code, Heading, Paragraph, Rule, Table, TextBlock, action
from qwen35_chat.drawing.placed import Placed, Stacked
from qwen35_chat.drawing.source_lines import Kind

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

# What is nested deeper, or has more cells than any text that is meant to be read, is shown as it
# was written: the parser would drop it, or take seconds.
DEEPEST = 40
MOST_RAGGED_CELLS = 2_000
WEB = ("https://", "http://")
_STYLES = {"strong": "bold", "em": "italic", "s": "strike"}
_HEADINGS = {"h1": ".heading", "h2": ".heading", "h3": "bold", "h4": "bold italic"}
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_ALERT = re.compile(r"\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\](?:\n|\Z)")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@cache
def _parser() -> "MarkdownIt":
    # Imported with the first reply: a start of the app does not wait for it.
    from qwen35_chat.drawing.markdown_rules import parser

    return parser(DEEPEST)


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
        if n and not (node.type == "footnote" and tree.children[n - 1].type == "footnote"):
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
    """Whether a text has more cells than any that is meant to be read."""
    lines = source.split("\n")
    return len(lines) * max(line.count("|") for line in lines) > MOST_RAGGED_CELLS


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
            content = _inline(node, _HEADINGS.get(node.tag, "italic"))
            yield _placed(Heading(content, node.tag, first, rest), node)
        case "bullet_list" | "ordered_list":
            yield from _list(node, first, rest, numbers)
        case "blockquote":
            yield from _quote(node, f"{first}▏ ", f"{rest}▏ ", numbers)
        case "fence" if node.info.strip() == "math":
            formula = Formula(node.content, node.content.rstrip("\n"), first, rest)
            yield Placed(formula, "formula", *(node.map or (0, 0)))
        case "fence" | "code_block":
            code = Code(node.content, language_of(node.info), next(numbers), first, rest)
            yield _placed(code, node, "code")
        case "hr":
            yield Placed(Rule(first, rest))
        case "table":
            if first != rest:
                yield Placed(Paragraph(BLANK, first, rest))
            yield _placed(_table(node, rest), node, "table")
        case "html_block":
            yield _placed(Paragraph(Content(node.content.rstrip("\n")), first, rest), node)
        case "formula_block":
            formula = Formula(node.content, node.markup, first, rest)
            yield _placed(formula, node, "formula")
        case "footnote":
            mark = f"{_footnote(node.info)} "
            note = Paragraph(_inline(node), first + mark, rest + " " * len(mark))
            yield _placed(note, node)
        case _:
            yield _paragraph(node, first, rest)


def _quote(
    node: "SyntaxTreeNode", first: str, rest: str, numbers: Iterator[int | None]
) -> Iterator[Placed]:
    for n, child in enumerate(node.children):
        if n:
            yield Placed(Paragraph(BLANK, rest, rest))
        alert = _ALERT.match(child.children[0].content) if not n and child.children else None
        if alert and child.type == "paragraph":
            yield Placed(Paragraph(Content.styled(alert[1].capitalize(), "bold"), first, rest))
            if child.children[0].content[alert.end() :]:
                yield _paragraph(child, rest, rest, skip=alert.end())
        else:
            yield from _block(child, rest if n else first, rest, numbers)


def _paragraph(node: "SyntaxTreeNode", first: str, rest: str, *, skip: int = 0) -> Placed:
    """A paragraph, and the formulas in it that stand on lines of their own.

    Args:
        skip: characters at its start that are not shown.
    """
    inline = [child for part in node.children for child in part.children]
    text: list[SyntaxTreeNode] = []
    blocks: list[TextBlock] = []
    for child in [*inline, None]:
        if child is not None and not (child.type == "formula" and child.meta["display"]):
            text.append(child)
            continue
        content = _stripped(_content(text)[0 if blocks else skip :])
        if content.plain or (child is None and not blocks):
            blocks.append(Paragraph(content, first, rest))
            first = rest
        if child is not None:
            blocks.append(Formula(child.content, child.markup, first, rest))
            first, text = rest, []
    return _placed(blocks[0] if len(blocks) == 1 else Stacked(blocks), node)


def _placed(block: TextBlock, node: "SyntaxTreeNode", kind: Kind = "prose") -> Placed:
    first, end = node.map or (0, 0)
    return Placed(block, kind, first + (node.type == "fence"), end)


def _stripped(content: Content) -> Content:
    plain = content.plain
    return content[len(plain) - len(plain.lstrip()) : len(plain.rstrip())]


def _list(
    node: "SyntaxTreeNode", first: str, rest: str, numbers: Iterator[int | None]
) -> Iterator[Placed]:
    number = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
    apart = False  # whether the item before has empty lines in it
    for item in node.children:
        if apart:
            yield Placed(Paragraph(BLANK, rest, rest))
        mark = "• " if number is None else f"{number}. "
        box = _box(item)
        mark = mark.replace("• ", "") + box if box else mark
        indent = rest + " " * len(mark)
        head = first + mark
        if not item.children:
            yield _placed(Paragraph(BLANK, head, indent), item)
        apart, end = False, None
        for child in item.children:
            if end is not None and child.map and child.map[0] > end:
                yield Placed(Paragraph(BLANK, indent, indent))
                apart = True
            if box and end is None:
                yield _paragraph(child, head, indent, skip=len("[x] "))
            else:
                yield from _block(child, head, indent, numbers)
            head, end = indent, _last_line(child)
        first = rest
        number = None if number is None else number + 1


def _last_line(node: "SyntaxTreeNode") -> int:
    """The line of the source after a block. That of a list has the empty lines after it, too."""
    while node.children and node.children[-1].map:
        node = node.children[-1]
    return node.map[1] if node.map else 0


def _box(item: "SyntaxTreeNode") -> str:
    """The box of a task; "" if an item of a list is none."""
    start = item.children[0].children[:1] if item.children else []
    text = start[0].content[:4].lower() if start and item.children[0].type == "paragraph" else ""
    return {"[ ] ": "☐ ", "[x] ": "☑ "}.get(text, "")


def _footnote(name: str) -> str:
    return name.translate(_RAISED) if name.isdecimal() and name.isascii() else f"[{name}]"


def _table(node: "SyntaxTreeNode", rest: str, *, continued: bool = False) -> Table:
    rows = [
        [_inline(cell) for cell in row.children] for part in node.children for row in part.children
    ]
    head = node.children[0].children[0].children
    aligns = [str(cell.attrs.get("style", "")).removeprefix("text-align:") for cell in head]
    return Table(rows[0], rows[1:], rest, continued, aligns)


def _inline(node: "SyntaxTreeNode", style: str = "") -> Content:
    if not node.children:
        return Content.styled(node.content, style)
    inline = [child for part in node.children for child in part.children]
    content = _content(inline)
    return content.stylize_before(style) if style else content


def _content(nodes: Sequence["SyntaxTreeNode"]) -> Content:
    text = _Text()
    _walk(nodes, text)
    return Content(text.joined(), text.spans)


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


def _walk(nodes: Sequence["SyntaxTreeNode"], text: _Text) -> None:
    for node in nodes:
        start = text.length
        styles: list[str | Style] = [_STYLES[node.type]] if node.type in _STYLES else []
        match node.type:
            case "softbreak" | "hardbreak":  # a model means the line breaks that it writes
                text.add("\n")
            case "code_inline":
                text.add(node.content)
                styles.append(".inline-code")
            case "formula":
                text.add(in_text(node.content, node.markup))
                styles.append(Style.from_meta({SOURCE: node.markup}))
            case "footnote_mark":
                text.add(_footnote(node.content))
            case "html_inline":
                text.add("\n" if _BREAK.fullmatch(node.content) else node.content)
            case "image":
                text.add(f"{node.content or 'image'} ({node.attrs.get('src', '')})")
                styles.append(".muted")
            case "link":
                _walk(node.children, text)
                styles += _link(node, text, start)
            case _ if node.children:
                _walk(node.children, text)
            case _:
                text.add(node.content)
        text.spans += [Span(start, text.length, style) for style in styles]


def _link(node: "SyntaxTreeNode", text: _Text, start: int) -> list[str | Style]:
    """The styles of a link, after its text; its address is added."""
    href = str(node.attrs.get("href", ""))
    shown, end = text.joined(start), text.length
    web = href.startswith(WEB)
    if web:
        text.spans += [Span(start, end, ".link"), Span(start, end, Style(underline=True))]
    # The model chose the address, so it is shown, and only a web page can be opened.
    if shown != href and not node.markup:
        text.add(f" ({href})")
        text.spans.append(Span(end, text.length, ".muted"))
    return [action("open_link", href)] if web else []
