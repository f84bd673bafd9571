"""Rules of the Markdown parser beyond CommonMark and tables.

- Formulas in LaTeX, read before backslashes and underscores mean anything else.
- Footnotes.
- Emphasis beside Chinese and Japanese, whose punctuation has no spaces around it: CommonMark takes
  the marks of `**注意：**不要` for text.
- Addresses end before such punctuation; names of files are none.
"""

import re
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, east_asian_width

from linkify_it import LinkifyIt
from markdown_it import MarkdownIt
from markdown_it.rules_inline import emphasis, strikethrough

from qwen35_chat.drawing.latex.symbols import ENVIRONMENTS

if TYPE_CHECKING:
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

# Formulas within a text. `$` is a price, a variable or a formula: one that is read as a formula has
# no space inside its marks, and no letter or digit outside them.
_DOLLAR = re.compile(r"\$(?=[^\s$])((?:[^$\\\n`]|\\[^\n])++)(?<=[^\s])\$(?![0-9$({])")
_DOUBLE = re.compile(r"\$\$((?:[^$\\]|\\.)++)\$\$(?!\$)", re.DOTALL)
_ROUND = re.compile(r"\\\(((?:[^\\]|\\[^()])++)\\\)", re.DOTALL)
_SQUARE = re.compile(r"\\\[((?:[^\\]|\\[^\[\]])++)\\\](?![(\[:])", re.DOTALL)
_SIGNS = re.compile(r"[\\^_=<>≤≥≈+]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
# Formulas by themselves.
_OPENS = re.compile(r"\$\$|\\\[|\\begin\{([a-zA-Z]+)\*?\}")
_POINT = re.compile(r"\A[ \t]*([.,;。，；])")
MOST_LINES = 60  # of a formula
_FOOTNOTE = re.compile(r"\[\^([^\]\s]{1,40})\]:[ \t]*")
_FOOTNOTE_MARK = re.compile(r"\[\^([^\]\s]{1,40})\](?!:)")
_WIDE_PUNCTUATION = {
    code: " "
    for code in (*range(0x3000, 0x3040), *range(0xFF00, 0xFF66), *map(ord, "“”‘’…—"))
    if category(chr(code))[0] in "PZ"
}


class Marked(NamedTuple):
    """A formula in a text.

    Attributes:
        end: of its closing mark.
        latex: what is between the marks.
        display: whether it stands on lines of its own.
    """

    end: int
    latex: str
    display: bool


def parser(deepest: int) -> MarkdownIt:
    """A parser of all that is shown.

    Args:
        deepest: how deep blocks may be nested.
    """
    made = MarkdownIt("gfm-like", {"maxNesting": deepest})
    made.linkify = _Addresses(options={"fuzzy_link": False, "fuzzy_email": False})
    blocks = ["paragraph", "reference", "blockquote", "list"]
    made.block.ruler.before("fence", "formula", _formula_block, {"alt": blocks})
    made.block.ruler.before("reference", "footnote", _footnote, {"alt": blocks})
    made.inline.ruler.before("escape", "formula", _formula)
    made.inline.ruler.before("link", "footnote_mark", _footnote_mark)
    made.inline.ruler.at("emphasis", _emphasis)
    made.inline.ruler.at("strikethrough", _strikethrough)
    return made


# Formulas


def formula_at(text: str, at: int, end: int) -> Marked | None:
    """The formula that begins at a character of a text which ends at `end`, if one does."""
    if text[at] == "$":
        before = text[at - 1] if at else " "
        if text.startswith("$$", at):
            found = _DOUBLE.match(text, at, end)
            if found is None or before == "$" or not found[1].strip() or _prose(found[1]):
                return None
            return Marked(found.end(), found[1], True)
        found = _DOLLAR.match(text, at, end)
        beside = before.isascii() and (before.isalnum() or before in "$\\")
        if found is None or beside or _prose(found[1]) or _variable(found[1], text[found.end() :]):
            return None
        return Marked(found.end(), found[1], False)
    if found := _ROUND.match(text, at, end):
        return Marked(found.end(), found[1], False) if found[1].strip() else None
    found = _SQUARE.match(text, at, end)
    if found and found[1].strip() and ("\n" in found[1] or _SIGNS.search(found[1])):
        return Marked(found.end(), found[1], True)
    return None


def _prose(text: str) -> bool:
    """Whether a text between dollars is no formula: "5 to 10" or "HOME and"."""
    return not _SIGNS.search(text) and bool(_WORD.search(text)) and bool(re.search(r"\s", text))


def _variable(text: str, after: str) -> bool:
    """Whether a text between dollars, with a letter after them, is the name of a variable.

    In `$n$th` it is a formula, in `$HOME$PATH` it is none.
    """
    letter = after[:1].isascii() and (after[:1].isalpha() or after[:1] == "_")
    return letter and len(text) > 2 and not re.search(r"[\\^{]", text)


def _formula(state: "StateInline", silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    found = formula_at(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = found.latex
        token.markup = state.src[state.pos : found.end]
        token.meta = {"display": found.display}
    state.pos = found.end
    return True


def _formula_block(state: "StateBlock", first: int, end: int, silent: bool) -> bool:
    if state.is_code_block(first):
        return False
    start, last = state.bMarks[first] + state.tShift[first], state.eMarks[first]
    opens = _OPENS.match(state.src, start, last)
    if opens is None or (opens[1] and opens[1] not in ENVIRONMENTS):
        return False
    if opens[0] == "$$" and state.src.count("$$", state.src.rfind("\n\n", 0, start) + 1, start) % 2:
        return False  # it closes one that begins within the paragraph
    found = _close(state, opens, first, end)
    if found is None:
        return _open_formula(state, opens, first, end, silent=silent)
    line, latex, source, rest = found
    if not latex.strip() or (rest and line == first) or _prose(latex):
        return False
    if not silent:
        _push(state, "formula_block", latex, source, (first, line + 1))
        if rest:
            state.push("paragraph_open", "p", 1).map = [line, line + 1]
            token = state.push("inline", "", 0)
            token.content, token.children, token.map = rest, [], [line, line + 1]
            state.push("paragraph_close", "p", -1)
        state.line = line + 1
    return True


def _close(
    state: "StateBlock", opens: re.Match[str], first: int, end: int
) -> tuple[int, str, str, str] | None:
    """The line on which a formula is closed, what is in it, its source, and the text after it."""
    mark = {"$$": "$$", "\\[": "\\]"}.get(opens[0], opens[0].replace("\\begin", "\\end"))
    lines: list[str] = []
    for line in range(first, min(end, first + MOST_LINES)):
        if state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            return None  # the end of the list or quote that it is in
        at = opens.end() if line == first else state.bMarks[line] + min(
            state.tShift[line], state.blkIndent)  # fmt: skip
        text = state.src[at : state.eMarks[line]]
        if line > first:
            text = state.getLines(line, line + 1, state.blkIndent, False)
        closed = text.find(mark)
        if closed < 0:
            lines.append(text)
            continue
        inside = "\n".join([*lines, text[:closed]])
        rest = text[closed + len(mark) :]
        point = "".join(_POINT.findall(rest)[:1])
        source = f"{opens[0]}{inside}{mark}"
        inside = (source if opens[1] else inside.rstrip()) + point
        return line, inside, source + point, rest.lstrip(" \t").removeprefix(point).strip(" \t")
    return None


def _open_formula(
    state: "StateBlock", opens: re.Match[str], first: int, end: int, *, silent: bool
) -> bool:
    """A formula that is not closed: what may still come is no Markdown."""
    line = first
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        line += 1
    source = state.getLines(first, line, state.blkIndent, False)
    alone = not state.src[opens.end() : state.eMarks[first]].strip()
    if not alone and "\\" not in source[len(opens[0]) :]:
        return False
    if not silent:
        _push(state, "formula_block", "", source.strip(), (first, line))
        state.line = line
    return True


def _push(
    state: "StateBlock", kind: str, content: str, markup: str, lines: tuple[int, int]
) -> None:
    token = state.push(kind, "", 0)
    token.content, token.markup, token.map = content, markup, list(lines)


# Footnotes


def _footnote(state: "StateBlock", first: int, end: int, silent: bool) -> bool:
    start = state.bMarks[first] + state.tShift[first]
    found = _FOOTNOTE.match(state.src, start, state.eMarks[first])
    if found is None or state.is_code_block(first):
        return False
    if silent:
        return True
    line = first + 1
    while line < end and not state.isEmpty(line) and not _FOOTNOTE.match(
        state.src, state.bMarks[line] + state.tShift[line]
    ):  # fmt: skip
        line += 1
    text = state.getLines(first, line, state.blkIndent, False)
    opened = state.push("footnote_open", "", 1)
    opened.map, opened.info = [first, line], found[1]
    token = state.push("inline", "", 0)
    token.content = text[found.end() - found.start() :].strip()
    token.children, token.map = [], [first, line]
    state.push("footnote_close", "", -1).info = found[1]
    state.line = line
    return True


def _footnote_mark(state: "StateInline", silent: bool) -> bool:
    found = _FOOTNOTE_MARK.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("footnote_mark", "", 0).content = found[1]
    state.pos = found.end()
    return True


# Chinese and Japanese


class _Addresses(LinkifyIt):
    """Finds addresses with a scheme, which end before wide punctuation."""

    def pretest(self, text: str) -> bool:
        return super().pretest(_ended(text))

    def match(self, text: str):
        return super().match(_ended(text))

    def match_at_start(self, text: str):
        return super().match_at_start(_ended(text))


def _ended(text: str) -> str:
    return text.translate(_WIDE_PUNCTUATION)


def _emphasis(state: "StateInline", silent: bool) -> bool:
    return _tokenized(emphasis.tokenize, state, silent)


def _strikethrough(state: "StateInline", silent: bool) -> bool:
    return _tokenized(strikethrough.tokenize, state, silent)


def _tokenized(rule, state: "StateInline", silent: bool) -> bool:
    start, known = state.pos, len(state.delimiters)
    if not rule(state, silent):
        return False
    if len(state.delimiters) > known:
        before = state.src[start - 1] if start else " "
        after = state.src[state.pos] if state.pos < state.posMax else " "
        if _wide(before) or _wide(after):
            opens, closes = _flanks(before, after), _flanks(after, before)
            for delimiter in state.delimiters[known:]:
                if state.src[start] == "_":  # it is a part of names, but not beside punctuation
                    opens = delimiter.open or (opens and _is_punctuation(after))
                    closes = delimiter.close or (closes and _is_punctuation(before))
                delimiter.open, delimiter.close = opens, closes
    return True


def _flanks(outside: str, inside: str) -> bool:
    """Whether marks between two characters may belong to the one inside."""
    if inside.isspace():
        return False
    return not _narrow_sign(inside) or outside.isspace() or _narrow_sign(outside) or _wide(outside)


def _wide(character: str) -> bool:
    return east_asian_width(character) in "WF"


def _is_punctuation(character: str) -> bool:
    return ord(character) in _WIDE_PUNCTUATION and not character.isspace()


def _narrow_sign(character: str) -> bool:
    return category(character)[0] in "PS" and not _wide(character)
