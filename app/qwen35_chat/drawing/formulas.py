"""Formulas in a text, and by themselves. What reads LaTeX is imported with the first of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from qwen35_chat.drawing.line import Line, Run
from qwen35_chat.drawing.wrapping import wrap

if TYPE_CHECKING:
    from qwen35_chat.drawing.latex.nodes import Node

INDENT = 4  # cells before a formula by itself
UNBROKEN = 24  # cells; a shorter formula in a text stays on one line


def in_text(latex: str, source: str) -> str:
    """A formula within a text.

    Args:
        source: the formula with its marks, which is shown if it cannot be read.
    """
    from qwen35_chat.drawing.latex.layout import one_line

    tree = _tree(latex)
    if tree is None:
        return source
    shown = one_line(tree)
    return shown.replace(" ", "\u00a0") if cell_len(shown) <= UNBROKEN else shown


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula by itself.

    Attributes:
        latex: "" if it is not complete.
        source: the formula with its marks, which is shown if it cannot be read.
        first, rest: before the first line, and before each other line.
    """

    latex: str
    source: str
    first: str = ""
    rest: str = ""

    def lines(self, width: int) -> list[Line]:
        from qwen35_chat.drawing.latex.layout import several_lines

        tree = _tree(self.latex) if self.latex.strip() else None
        if tree is None:
            return wrap(Content(self.source), width, self.first, self.rest)
        indent = " " * min(INDENT, width // 10)
        first, rest = self.first + indent, self.rest + indent
        rows = several_lines(tree)
        if cell_len(rows[0]) + max(cell_len(first), cell_len(rest)) <= width:
            return [_line(n, row, rest if n else first) for n, row in enumerate(rows)]
        lines: list[Line] = []
        for n, row in enumerate(_flat_rows(tree)):
            lines += wrap(Content(row), width, rest if n else first, rest, first_row=n)
        return lines


def _line(number: int, row: str, prefix: str) -> Line:
    content = Content.styled(prefix, ".muted") + row.rstrip()
    runs = [Run(len(prefix), len(content.plain), 0)]
    return Line(content, len(prefix), row=number, runs=runs)


def _flat_rows(tree: "Node") -> Sequence[str]:
    """The rows of an alignment, and other formulas, in one line each."""
    from qwen35_chat.drawing.latex.layout import one_line
    from qwen35_chat.drawing.latex.nodes import Matrix

    if isinstance(tree, Matrix):
        return [one_line(Matrix((row,), tree.columns, tree.gap)) for row in tree.rows]
    return [one_line(tree)]


@lru_cache(maxsize=256)  # a text that is being written is read again in each frame
def _tree(latex: str) -> "Node | None":
    """The tree of a formula; None if it cannot be read."""
    from qwen35_chat.drawing.latex.parser import UnreadableError, parse

    try:
        return parse(latex)
    except UnreadableError:
        return None
