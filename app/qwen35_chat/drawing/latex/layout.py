"""Formulas as lines of characters.

A formula within a text takes one line: a fraction is `a/b`, and what runs below a sum follows it.
A formula by itself may take several: fractions have two floors, matrices have rows.
"""

import re
from collections.abc import Sequence
from unicodedata import normalize

from rich.cells import cell_len

from qwen35_chat.drawing.latex import symbols
from qwen35_chat.drawing.latex.blocks import (
    Block,
    around,
    beside,
    brace_line,
    centred,
    cornered,
    fence,
    has_small,
    is_single,
    padded,
    scripts,
)
from qwen35_chat.drawing.latex.nodes import (
    Accent,
    Boxed,
    Fenced,
    Fraction,
    Large,
    Matrix,
    Node,
    Root,
    Row,
    Scripts,
    Stack,
    Symbol,
)

_OPERANDS = frozenset(["letter", "closing", "name", "large", "group", "fraction"])
_LOOSE = frozenset(["operator", "sign", "relation", "comma", "group"])  # bind less than a product
_BELOW = "".join(map(chr, symbols.SUBSCRIPTS.values())).replace(",", "")
_ABOVE = "".join(map(chr, symbols.SUPERSCRIPTS.values())).replace(",", "")
# What needs no parentheses below a line: a number, a differential, a value of a function, an index.
_ONE_FACTOR = re.compile(rf"[\d.]+|[∂d√]?\w[{_BELOW}{_ABOVE}]*|\w\(\w+\)")
_ONE_ROOT = re.compile(rf"\d+|\w[{_BELOW}]*")


def one_line(node: Node) -> str:
    """A formula in one line."""
    return _Layout(flat=True).block(node).lines[0].strip()


def several_lines(node: Node) -> list[str]:
    """A formula by itself, in lines of equal width."""
    return list(_Layout(flat=False).block(node).lines)


class _Layout:
    """Makes blocks of nodes.

    Args:
        flat: everything takes one line.
        tight: without spaces around signs, as in scripts.
        nested: within a fraction, where others take one line.
    """

    def __init__(self, *, flat: bool, tight: bool = False, nested: bool = False):
        self._flat = flat
        self._tight = tight
        self._nested = nested

    def block(self, node: Node) -> Block:
        match node:
            case Symbol():
                return Block((node.text,), kind=node.kind)
            case Large():
                return Block((node.text,), kind="name" if node.text.isascii() else "large")
            case Row():
                return self._row(node.nodes)
            case Scripts():
                return self._scripts(node)
            case Stack():
                return self._stack(node)
            case Fraction():
                return self._fraction(node)
            case Root():
                return self._root(node)
            case Accent():
                return self._accent(node)
            case Fenced():
                return self._fenced(node)
            case Boxed():
                return self._boxed(node)
            case Matrix():
                return self._matrix(node)

    def _row(self, nodes: Sequence[Node]) -> Block:
        if len(nodes) == 1:
            return self.block(nodes[0])
        blocks: list[Block] = []
        before, spaced, depth, group = "", False, 0, False
        for node in nodes:
            block = self.block(node)
            kind = block.kind
            if kind == "operator" and before not in _OPERANDS:  # as in "= -1"
                kind = "sign"
            if not self._tight and not spaced and _apart(before, kind):
                blocks.append(Block((" ",)))
            blocks.append(block)
            depth += (kind == "opening") - (kind == "closing")
            group = group or (not depth and kind in (*_LOOSE, "name", "large"))
            spaced = kind == "space"
            before = before if spaced else kind
        whole = beside(blocks)
        return Block(whole.lines, whole.middle, "group" if group else "letter")

    # Scripts

    def _script(self, node: Node | None) -> str:
        return "" if node is None else _Layout(flat=True, tight=True).block(node).lines[0].strip()

    def _scripts(self, node: Scripts) -> Block:
        below, above = self._script(node.below), self._script(node.above)
        if isinstance(node.base, Large) and node.base.limits and not (self._flat or self._nested):
            return around(self.block(node.base), below, above)
        base = self.block(node.base)
        if base.kind == "group" and base.flat:
            base = Block((f"({base.lines[0]})",))
        keeps = ("name", "large", "relation", "operator", "closing", "opening")
        kind = base.kind if base.kind in keeps else "letter"
        if base.flat and (self._flat or has_small(below, above)):
            return Block((base.lines[0] + scripts(below, above),), kind=kind)
        return cornered(base, below, above, kind)

    def _stack(self, node: Stack) -> Block:
        body = self.block(node.body)
        above, below = self._script(node.above), self._script(node.below)
        if self._flat and body.lines[0] in ("─→", "─←", "─⇒", "─↔"):
            named = "; ".join(filter(None, (above, below)))
            arrow = body.lines[0][1]
            return Block((f"─{named}─{arrow}" if named else arrow,), kind="relation")
        if self._flat:
            shown = f"({body.lines[0]})" if body.kind == "group" else body.lines[0]
            return Block((shown + scripts(below, above),), kind=body.kind)
        if node.brace:
            over = node.brace == "⏞"
            brace = brace_line(body.width, over=over)
            lines = (brace, *body.lines) if over else (*body.lines, brace)
            body = Block(lines, body.middle + over, body.kind)
        elif body.lines[0].startswith("─"):
            wide = max(cell_len(above), cell_len(below), 1)
            body = Block((f"{'─' * (wide + 1)}{body.lines[0][1]}",), kind="relation")
        return around(body, below, above)

    # Structures

    def _fraction(self, node: Fraction) -> Block:
        if not self._flat and not (self._nested and node.line):
            inner = _Layout(flat=False, nested=True)
            top, bottom = inner.block(node.top), inner.block(node.bottom)
            if not node.line:
                return Block(centred([*top.lines, *bottom.lines]), 0)
            line = "─" * (max(top.width, bottom.width) + 2)
            lines = centred([*top.lines, line, *bottom.lines])
            return Block(lines, len(top.lines), "fraction")
        inner = self if self._flat else _Layout(flat=True)
        top, bottom = inner.block(node.top), inner.block(node.bottom)
        over, under = top.lines[0], bottom.lines[0]
        if not node.line:
            return Block((f"{over} over {under}",), kind="group")
        if over.isdecimal() and under.isdecimal() and len(over + under) < 4 and not self._tight:
            known = symbols.FRACTIONS.get((int(over), int(under)))
            if known:
                return Block((known,))
        over = f"({over})" if top.kind in _LOOSE or top.kind == "fraction" else over
        single = is_single(under) or _ONE_FACTOR.fullmatch(under)
        under = under if single and bottom.kind not in _LOOSE else f"({under})"
        return Block((f"{over}/{under}",), kind="fraction")

    def _root(self, node: Root) -> Block:
        body, degree = self.block(node.body), self._script(node.degree)
        sign = {"": "√", "3": "∛", "4": "∜"}.get(degree) or f"{scripts('', degree)}√"
        if not body.flat:
            return beside([Block((sign,)), fence("(", body, ")")])
        inside = body.lines[0]
        single = _ONE_ROOT.fullmatch(inside) or is_single(inside)
        return Block((f"{sign}{inside}" if single else f"{sign}({inside})",))

    def _accent(self, node: Accent) -> Block:
        body = self.block(node.body)
        if not body.flat:
            return body
        text, mark = body.lines[0], node.mark
        if len(text) > 1 and mark in "\u0304\u0305\u0332\u0338\u20d7":  # over all of it
            mark = "\u0305" if mark == "\u0304" else mark
            return Block(("".join(f"{character}{mark}" for character in text),), kind=body.kind)
        at = (len(text) + 1) // 2
        return Block((normalize("NFC", text[:at] + mark) + text[at:],), kind=body.kind)

    def _fenced(self, node: Fenced) -> Block:
        if self._flat and isinstance(node.body, Matrix):
            return Block((f"{node.left}{self.block(node.body).lines[0]}{node.right}",))
        return fence(node.left, self.block(node.body), node.right)

    def _boxed(self, node: Boxed) -> Block:
        body = self.block(node.body)
        if self._flat:
            return Block((f"[ {body.lines[0]} ]",))
        line = "─" * (body.width + 2)
        rows = [f"│ {row} │" for row in body.lines]
        return Block((f"┌{line}┐", *rows, f"└{line}┘"), body.middle + 1)

    def _matrix(self, node: Matrix) -> Block:
        if self._flat:
            cells = ([self.block(cell).lines[0].strip() for cell in row] for row in node.rows)
            between = ", " if node.columns == "l" else " "  # values and their conditions
            return Block(("; ".join(filter(None, map(between.join, cells))),), kind="group")
        rows = [[self.block(cell) for cell in row] for row in node.rows]
        widths = [0] * max(map(len, rows))
        for row in rows:
            for n, cell in enumerate(row):
                widths[n] = max(widths[n], cell.width)
        before, aligns = _columns(node, len(widths))
        apart = any(not cell.flat for row in rows for cell in row)
        lines: list[str] = []
        for row in rows:
            blocks: list[Block] = []
            for n, width in enumerate(widths):
                cell = row[n] if n < len(row) else Block(("",))
                cell = Block(
                    tuple(padded(line, width, aligns[n]) for line in cell.lines), cell.middle
                )
                blocks += [Block((before[n],)), cell]
            block = beside(blocks)
            lines += [" " * block.width] if apart and lines else []
            lines += block.lines
        return Block(tuple(lines), (len(lines) - 1) // 2)


def _apart(before: str, kind: str) -> bool:
    """Whether a space comes between two neighbours, by their kinds."""
    if not before or kind == "space" or kind in ("closing", "comma"):
        return False
    if "relation" in (before, kind) or "operator" in (before, kind) or before == "comma":
        return True
    if "fraction" in (before, kind):
        return before in _OPERANDS and (kind in _OPERANDS or kind == "opening")
    if kind in ("name", "large"):
        return before in _OPERANDS
    return before == "large" or (before == "name" and kind != "opening")


def _columns(node: Matrix, count: int) -> tuple[list[str], list[str]]:
    """What comes before each column, and how it is aligned."""
    if node.columns == "rl":  # pairs, which belong together
        before = [" " * (node.gap if n % 2 else 4) for n in range(count)]
        return ["", *before[1:]], ["r", "l"] * count
    bar = f"{' ' * node.gap}│{' ' * node.gap}"
    before, aligns = [""], []
    for character in node.columns.strip("|"):
        if character == "|":
            before[-1] = bar
        else:
            aligns.append(character)
            before.append(" " * node.gap)
    more = max(count - len(aligns), 0)
    return before + [" " * node.gap] * more, aligns + [aligns[-1]] * more
