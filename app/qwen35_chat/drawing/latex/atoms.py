"""Nodes of single characters, and of commands without arguments."""

from qwen35_chat.drawing.latex import symbols
from qwen35_chat.drawing.latex.nodes import Kind, Large, Node, Symbol

_CLASSES: dict[str, Kind] = {
    **dict.fromkeys("=<>≤≥≠≈≡∈→←⇒⇔≔∼≪≫⊂⊆↦:", "relation"),
    **dict.fromkeys("+-×÷±·∩∪∧∨", "operator"),
    **dict.fromkeys("([", "opening"),
    **dict.fromkeys(")]!", "closing"),
    **dict.fromkeys(",;", "comma"),
}
_TABLES: tuple[tuple[dict[str, str], Kind], ...] = (
    (symbols.RELATIONS, "relation"),
    (symbols.OPERATORS, "operator"),
    (symbols.OPENING, "opening"),
    (symbols.CLOSING, "closing"),
)


def character(token: str, alphabet: str) -> Node:
    """A character, in an alphabet of `symbols.letter` unless that is ""."""
    if token == "~":
        return Symbol(" ", "space")
    if token == "-":
        return Symbol("−", "operator")
    kind = _CLASSES.get(token, "letter")
    if kind == "letter" and alphabet:
        return Symbol(symbols.letter(token, alphabet))
    return Symbol(token, kind)


def command(name: str, alphabet: str) -> Node | None:
    """A command without arguments; None if it is none of these."""
    if name in symbols.SPACES:
        return Symbol(symbols.SPACES[name], "space")
    if name in symbols.LETTERS:
        text = symbols.LETTERS[name]
        return Symbol(symbols.letter(text, alphabet) if alphabet and len(text) == 1 else text)
    if name == "colon":
        return Symbol(":", "comma")
    if name in symbols.LIMITED:
        return Large(symbols.LIMITED[name], limits=True)
    if name in symbols.INTEGRALS:
        return Large(symbols.INTEGRALS[name], limits=False)
    if name in symbols.LIMIT_NAMES:
        return Large({"limsup": "lim sup", "liminf": "lim inf"}.get(name, name), limits=True)
    if name in symbols.NAMES:
        return Symbol(name, "name")
    return next((Symbol(table[name], kind) for table, kind in _TABLES if name in table), None)
