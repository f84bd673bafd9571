"""LaTeX's mathematics as a tree.

What a formula may contain beyond the tables of `symbols` is read as it was written: an unknown
command becomes its own source, with its arguments.
"""

import re
from unicodedata import normalize

from qwen35_chat.drawing.latex import atoms, symbols
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

LONGEST = 4_000  # characters
DEEPEST = 24


class UnreadableError(ValueError):
    """A formula that is not balanced, too long or too deep: it is shown as it was written."""


_TOKEN = re.compile(r"\\[a-zA-Z]+\*?|\\.|[ \t\n\r]+|.", re.DOTALL)


def parse(source: str) -> Node:
    """The tree of a formula.

    Raises:
        UnreadableError: its braces, delimiters or environments are not balanced, or it is longer or
            deeper than any that is meant to be read.
    """
    if len(source) > LONGEST:
        raise UnreadableError("too long")
    return _Parser(source).whole()


class _Parser:
    """Reads a formula.

    Args:
        depth: how deep it is within another one.
    """

    def __init__(self, source: str, depth: int = 0):
        self._tokens = _TOKEN.findall(source)
        self._at = 0
        self._depth = depth
        self._alphabet = ""

    def whole(self) -> Node:
        """The whole source."""
        rows = self.rows("")
        if len(rows) == 1 and len(rows[0]) == 1:
            return rows[0][0]
        return Matrix(rows, "rl", gap=1)

    def _within(self, source: str) -> "_Parser":
        return _Parser(source, self._depth + 1)

    # Tokens

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _skip_space(self) -> None:
        while self._peek().isspace():
            self._at += 1

    def _raw_group(self, opening: str = "{", closing: str = "}") -> str | None:
        """The source between braces; None if there are none here."""
        start = self._at
        self._skip_space()
        if self._peek() != opening:
            self._at = start
            return None
        self._at += 1
        first, depth = self._at, 1
        while depth:
            token = self._next()
            if not token:
                raise UnreadableError("a brace is not closed")
            depth += (token == opening) - (token == closing)
        return "".join(self._tokens[first : self._at - 1])

    # Structure

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise UnreadableError("too deep")

    def rows(self, environment: str) -> tuple[tuple[Node, ...], ...]:
        r"""Rows up to the end of an environment; up to the end of the formula if it is ""."""
        rows: list[list[Node]] = [[]]
        while True:
            rows[-1].append(self.row({"&", "\\\\", "\\cr", "\\newline", "\\end"}))
            token = self._next()
            if token == "&":
                continue
            if token in ("\\\\", "\\cr", "\\newline"):
                self._raw_group("[", "]")
                rows.append([])
                continue
            if token == "\\end":
                if self._raw_group() != environment or not environment:
                    raise UnreadableError("an environment ends that is not open")
            elif environment or token:
                raise UnreadableError("an environment is not closed, or a brace not opened")
            break
        if len(rows) > 1 and rows[-1] == [Row(())]:  # after the last line break
            rows.pop()
        return tuple(tuple(row) for row in rows)

    def row(self, stops: set[str]) -> Row:
        """Nodes up to one of these tokens, or the end, or what closes the group around it."""
        self._deeper()
        nodes: list[Node] = []
        while (token := self._peek()) and token not in stops and token not in ("}", "\\right"):
            if token in ("^", "_", "'"):
                nodes.append(self._scripts(nodes.pop() if nodes else Symbol("")))
            elif (node := self._node()) is not None:
                nodes.append(node)
        self._depth -= 1
        return Row(tuple(nodes))

    def _group(self) -> Node:
        """What is left of a group whose brace was read."""
        inside = self.row(set())
        if self._next() != "}":
            raise UnreadableError("a brace is not closed")
        if len(inside.nodes) == 1 and isinstance(sign := inside.nodes[0], Symbol):
            return Symbol(sign.text)  # as in 1{,}000: a sign in braces is a letter
        return inside

    def _argument(self) -> Node:
        self._skip_space()
        if not self._peek() or self._peek() in ("}", "&", "\\\\", "\\end", "\\right"):
            raise UnreadableError("an argument is missing")
        self._deeper()
        node = self._node()
        self._depth -= 1
        return Symbol("") if node is None else node

    def _scripts(self, base: Node) -> Node:
        given: dict[str, Node] = {}
        while (token := self._peek()) in ("^", "_", "'"):
            if token in given:
                raise UnreadableError("two scripts in one place")
            self._at += token != "'"
            given[token] = self._primes() if token == "'" else self._argument()
            start = self._at
            self._skip_space()
            if self._peek() not in ("^", "_", "'"):
                self._at = start
        raised = tuple(given[token] for token in ("'", "^") if token in given)
        above, below = Row(raised) if raised else None, given.get("_")
        if isinstance(base, Stack) and base.brace:  # \underbrace{…}_{…}
            return Stack(base.body, above or base.above, below or base.below, base.brace)
        return Scripts(base, below, above)

    def _primes(self) -> Node:
        count = 0
        while self._peek() == "'":
            count, self._at = count + 1, self._at + 1
        return Symbol({1: "′", 2: "″", 3: "‴"}.get(count, "′" * count))

    def _node(self) -> Node | None:
        """The next node; None if a token shows nothing."""
        token = self._next()
        if token == "{":
            return self._group()
        if token.isspace():
            return None
        if not token.startswith("\\"):
            return atoms.character(token, self._alphabet)
        if len(token) == 1:
            raise UnreadableError("a command is missing")
        return self._command(token[1:].removesuffix("*") or "*")

    def _command(self, name: str) -> Node | None:
        if name in symbols.IGNORED:
            return None
        if (atom := atoms.command(name, self._alphabet)) is not None:
            return atom
        if name in symbols.TEXT:
            return Symbol(_text(self._required()))
        if (alphabet := symbols.alphabet(name)) is not None:
            return self._in_alphabet(alphabet)
        if name in symbols.PLAIN_ALPHABETS:
            return self._in_alphabet("")
        if name in symbols.ACCENTS:
            return Accent(self._argument(), symbols.ACCENTS[name])
        return self._structure(name)

    def _in_alphabet(self, alphabet: str) -> Node:
        before, self._alphabet = self._alphabet, alphabet
        node = self._argument()
        self._alphabet = before
        return node

    def _required(self) -> str:
        raw = self._raw_group()
        if raw is None:
            raise UnreadableError("an argument is missing")
        return raw

    def _structure(self, name: str) -> Node | None:
        match name:
            case "frac" | "dfrac" | "tfrac" | "cfrac" | "nicefrac" | "sfrac":
                return Fraction(self._argument(), self._argument())
            case "binom" | "dbinom" | "tbinom":
                top, bottom = self._argument(), self._argument()
                return Fenced("(", Fraction(top, bottom, line=False), ")")
            case "sqrt":
                degree = self._raw_group("[", "]")
                return Root(
                    self._argument(), None if degree is None else self._within(degree).whole()
                )
            case "left":
                return self._fenced()
            case "middle":
                return Symbol(f" {self._delimiter()} ")
            case "begin":
                return self._environment(self._required())
            case "operatorname":
                text = _text(self._required())
                limits = text in symbols.LIMIT_NAMES
                return Large(text, limits) if limits else Symbol(text, "name")
            case "not":
                return self._negated()
            case "pmod" | "bmod":
                return self._modulo(name)
            case "boxed":
                return Boxed(self._argument())
            case _ if name in symbols.HIDDEN:
                self._required()
                return None
            case "hspace":
                self._required()
                return Symbol(" ", "space")
            case "tag":
                return Symbol(f"    ({_text(self._required())})")
            case "smash":
                return self._argument()
            case "substack":
                return Matrix(self._within(self._required()).rows(""))
            case _:
                return self._stack(name) or self._unknown(name)

    def _stack(self, name: str) -> Node | None:
        """A command that puts something above or below something."""
        match name:
            case "overset" | "stackrel":
                above = self._argument()
                return Stack(self._argument(), above)
            case "underset":
                below = self._argument()
                return Stack(self._argument(), None, below)
            case "underbrace":
                return Stack(self._argument(), brace="⏟")
            case "overbrace":
                return Stack(self._argument(), brace="⏞")
            case "xrightarrow" | "xleftarrow" | "xRightarrow" | "xleftrightarrow":
                below = self._raw_group("[", "]")
                arrow = {"xrightarrow": "→", "xleftarrow": "←", "xRightarrow": "⇒"}.get(name, "↔")
                above = self._argument()
                under = self._within(below).whole() if below else None
                return Stack(Symbol(f"─{arrow}", "relation"), above, under)
            case _:
                return None

    def _fenced(self) -> Node:
        left = self._delimiter()
        body = self.row(set())
        if self._next() != "\\right":
            raise UnreadableError("a delimiter is not closed")
        return Fenced(left, body, self._delimiter())

    def _delimiter(self) -> str:
        self._skip_space()
        token = self._next()
        if token == ".":
            return ""
        name = token.removeprefix("\\")
        for table in (symbols.OPENING, symbols.CLOSING, symbols.LETTERS, symbols.RELATIONS):
            if token != name and name in table:
                return table[name]
        if len(token) != 1 or token.isalnum() or token in "{}":
            raise UnreadableError("a delimiter is missing")
        return {"<": "⟨", ">": "⟩"}.get(token, token)

    def _environment(self, environment: str) -> Node:
        name = environment.rstrip("*")
        if name not in symbols.ENVIRONMENTS:
            raise UnreadableError(f"unknown environment {name}")
        columns = "c"
        if name in ("array", "subarray", "alignat", "alignedat"):
            self._raw_group("[", "]")
            given = re.sub(r"[^lcr|]", "", self._required())
            columns = given if name == "array" and given.strip("|") else "c"
        rows = self.rows(environment)
        if name in symbols.MATRICES:
            left, right = symbols.MATRICES[name]
            body = Matrix(rows, columns)
            return Fenced(left, body, right) if left or right else body
        if name in symbols.CASES:
            left, right = symbols.CASES[name]
            return Fenced(left, Matrix(rows, "l"), right)
        return Matrix(rows, "c" if name.startswith("gather") else "rl", gap=1)

    def _negated(self) -> Node:
        node = self._argument()
        if not isinstance(node, Symbol):
            raise UnreadableError("not of what is no symbol")
        return Symbol(normalize("NFC", f"{node.text}\u0338"), node.kind)

    def _modulo(self, name: str) -> Node:
        if name == "bmod":
            return Symbol("mod", "operator")
        return Row((Symbol(" (mod ", "space"), self._argument(), Symbol(")", "closing")))

    def _unknown(self, name: str) -> Node:
        text = f"\\{name}"
        while self._peek() == "{":
            text += f"{{{self._raw_group()}}}"
        return Symbol(f"{text} " if self._peek().isspace() else text)


def _text(source: str) -> str:
    """Words within a formula."""
    source = re.sub(r"\\([ %$#&_{}])", r"\1", source).replace("~", " ")
    return re.sub(r"\s+", " ", source.replace("$", ""))
