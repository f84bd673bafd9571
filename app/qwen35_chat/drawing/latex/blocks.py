"""Lines of characters side by side, above each other and between delimiters."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

from qwen35_chat.drawing.latex import symbols

_TALL = {"(": "⎛⎜⎝", ")": "⎞⎟⎠", "[": "⎡⎢⎣", "]": "⎤⎥⎦", "|": "│││", "‖": "‖‖‖",
         "⌊": "⎢⎢⎣", "⌋": "⎥⎥⎦", "⌈": "⎡⎢⎢", "⌉": "⎤⎥⎥", "∣": "│││"}  # fmt: skip
_BRACES = {"{": "⎧⎨⎩⎪", "}": "⎫⎬⎭⎪"}


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of equal width.

    Attributes:
        middle: the line on which neighbours stand.
        kind: as that of a symbol; "group" for what needs parentheses as an operand, "fraction" for
            what needs a space between it and another one.
    """

    lines: tuple[str, ...]
    middle: int = 0
    kind: str = "letter"

    @property
    def width(self) -> int:
        return cell_len(self.lines[0])

    @property
    def flat(self) -> bool:
        return len(self.lines) == 1


def beside(blocks: Iterable[Block]) -> Block:
    """Blocks next to each other, their middles on one line."""
    blocks = list(blocks) or [Block(("",))]
    above = max(block.middle for block in blocks)
    below = max(len(block.lines) - block.middle for block in blocks)
    columns: list[list[str]] = []
    for block in blocks:
        blank = " " * block.width
        top = [blank] * (above - block.middle)
        bottom = [blank] * (below - (len(block.lines) - block.middle))
        columns.append([*top, *block.lines, *bottom])
    return Block(tuple("".join(row) for row in zip(*columns, strict=True)), above)


def padded(line: str, width: int, align: str) -> str:
    space = width - cell_len(line)
    left = {"l": 0, "r": space}.get(align, space // 2)
    return f"{' ' * left}{line}{' ' * (space - left)}"


def centred(lines: Sequence[str]) -> tuple[str, ...]:
    width = max(map(cell_len, lines))
    return tuple(padded(line, width, "c") for line in lines)


def around(body: Block, below: str, above: str) -> Block:
    """Text below and above a block."""
    lines = [*([above] if above else []), *body.lines, *([below] if below else [])]
    return Block(centred(lines), body.middle + bool(above), "name")


def cornered(base: Block, below: str, above: str, kind: str) -> Block:
    """Text at the lower right and the upper right of a block."""
    if not base.flat and has_small(below, above):
        ends = [scripts("", above), *[""] * (len(base.lines) - 2), scripts(below, "")]
        width = max(map(cell_len, ends))
        pairs = zip(base.lines, ends, strict=True)
        lines = tuple(line + padded(end, width, "l") for line, end in pairs)
        return Block(lines, base.middle, kind)
    width = max(cell_len(below), cell_len(above))
    blank = " " * width
    lines = [f"{line}{blank}" for line in base.lines]
    empty = " " * base.width
    if above:
        lines.insert(0, f"{empty}{padded(above, width, 'l')}")
    if below:
        lines.append(f"{empty}{padded(below, width, 'l')}")
    return Block(tuple(lines), base.middle + bool(above), kind)


def fence(left: str, body: Block, right: str) -> Block:
    height = len(body.lines)
    sides = _delimiter(left, height, body.middle), _delimiter(right, height, body.middle)
    lines = tuple("".join(row) for row in zip_longest(sides[0], body.lines, sides[1], fillvalue=""))
    return Block(lines, body.middle)


def _delimiter(sign: str, height: int, middle: int) -> list[str]:
    """A delimiter of a height, one piece for each line."""
    if height == 1 or not sign:
        return [sign] * height
    if sign in _BRACES:
        top, centre, bottom, between = _BRACES[sign]
        if height == 2:
            return [top, bottom]
        at = min(max(middle, 1), height - 2)
        inner = [centre if n == at else between for n in range(1, height - 1)]
        return [top, *inner, bottom]
    if sign in _TALL:
        top, between, bottom = _TALL[sign]
        return [top, *[between] * (height - 2), bottom]
    return [sign if n == middle else " " * cell_len(sign) for n in range(height)]


def brace_line(width: int, *, over: bool) -> str:
    if width < 3:
        return ("⏞" if over else "⏟") + " " * (width - 1)
    ends, point = ("╭╮", "┴") if over else ("╰╯", "┬")
    left = (width - 3) // 2
    return f"{ends[0]}{'─' * left}{point}{'─' * (width - 3 - left)}{ends[1]}"


def scripts(below: str, above: str) -> str:
    """What follows a sign on its line, in small characters if all of it has them."""
    shown = ""
    for text, table, mark in (
        (below, symbols.SUBSCRIPTS, "_"),
        (above, symbols.SUPERSCRIPTS, "^"),
    ):
        if _small(text, table):
            shown += text.translate(table)
        else:
            shown += f"{mark}{text}" if is_single(text) else f"{mark}({text})"
    return shown


def has_small(below: str, above: str) -> bool:
    """Whether there are small characters for all of both."""
    return _small(below, symbols.SUBSCRIPTS) and _small(above, symbols.SUPERSCRIPTS)


def is_single(text: str) -> bool:
    """Whether a text is one character, not counting those that combine with it."""
    return sum(not unicodedata.combining(character) for character in text) == 1


def _small(text: str, table: dict[int, int]) -> bool:
    return all(ord(character) in table for character in text)
