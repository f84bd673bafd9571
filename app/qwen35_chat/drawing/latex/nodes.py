"""What a formula is made of."""

from dataclasses import dataclass
from typing import Literal

# How a symbol stands between its neighbours; TeX calls these classes of atoms.
Kind = Literal["letter", "operator", "relation", "opening", "closing", "comma", "name", "space"]


@dataclass(frozen=True, slots=True)
class Symbol:
    text: str
    kind: Kind = "letter"


@dataclass(frozen=True, slots=True)
class Large:
    """A sum, an integral, or a name such as lim.

    Attributes:
        limits: what it runs over stands above and below it where there is room.
    """

    text: str
    limits: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Nodes beside each other."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Scripts:
    base: "Node"
    below: "Node | None" = None
    above: "Node | None" = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Something above or below something: `\\overset`, `\\underbrace`, arrows with text.

    Attributes:
        brace: between the two, as wide as the wider one.
    """

    body: "Node"
    above: "Node | None" = None
    below: "Node | None" = None
    brace: str = ""


@dataclass(frozen=True, slots=True)
class Fraction:
    top: "Node"
    bottom: "Node"
    line: bool = True


@dataclass(frozen=True, slots=True)
class Root:
    body: "Node"
    degree: "Node | None" = None


@dataclass(frozen=True, slots=True)
class Accent:
    body: "Node"
    mark: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """Between delimiters as tall as itself; "" is none."""

    left: str
    body: "Node"
    right: str


@dataclass(frozen=True, slots=True)
class Boxed:
    body: "Node"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of cells.

    Attributes:
        columns: for each one "l", "c" or "r", and "|" for a line between two; the last one is that
            of all others.
        gap: columns between two cells.
    """

    rows: tuple[tuple["Node", ...], ...]
    columns: str = "c"
    gap: int = 2


Node = Symbol | Large | Row | Scripts | Stack | Fraction | Root | Accent | Fenced | Boxed | Matrix
