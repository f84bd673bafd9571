"""Syntax highlighting of code."""

from pygments.lexers import get_lexer_by_name
from pygments.token import Token
from pygments.util import ClassNotFound
from textual.content import Content, Span
from textual.highlight import HighlightTheme

# Underlined is what can be clicked, and red is what a diff takes away: a lexer's errors are no
# faults of code that is only a part, or in another dialect.
STYLES = {
    **HighlightTheme.STYLES,
    Token.Name.Function: "$text-warning",
    Token.Name.Function.Magic: "$text-warning",
    Token.Generic.Inserted: "$text-success",
    Token.Generic.Deleted: "$text-error",
    Token.Generic.Heading: "bold",
    Token.Generic.Subheading: "$text-accent",
    Token.Error: "",
    Token.Keyword.Namespace: "$text-accent",
    Token.Name.Constant: "$text-warning",
    Token.Operator.Word: "$text-accent",
}


def coloured(code: str, language: str) -> list[Content] | None:
    """The lines of `code` in the styles of the theme; None if the language is unknown.

    The lines are made from the lexer's tokens: splitting one long text with thousands of styles
    takes several times as long.
    """
    # Many lexers end what they read at the end of a line, so the last line needs one as well.
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return None
    lines: list[Content] = []
    text: list[str] = []
    spans: list[Span] = []
    at = 0
    try:
        for token, value in lexer.get_tokens(code):
            while token not in STYLES and token.parent is not None:
                token = token.parent
            style = STYLES.get(token, "")
            for n, piece in enumerate(value.split("\n")):
                if n:
                    lines.append(Content("".join(text), spans))
                    text, spans, at = [], [], 0
                if piece:
                    if style:
                        spans.append(Span(at, at + len(piece), style))
                    text.append(piece)
                    at += len(piece)
    except Exception:  # a lexer may fail, and the code must still be shown
        return None
    if text or code.endswith("\n"):
        lines.append(Content("".join(text), spans))
    return lines if "\n".join(line.plain for line in lines) == code else None
