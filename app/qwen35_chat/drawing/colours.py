"""Syntax highlighting of code."""

from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound
from textual.content import Content, Span
from textual.highlight import HighlightTheme


def coloured(code: str, language: str) -> list[Content] | None:
    """The lines of `code` in the styles of the theme; None if the language is unknown.

    The lines are made from the lexer's tokens: splitting one long text with thousands of styles
    takes several times as long.
    """
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    lines: list[Content] = []
    text: list[str] = []
    spans: list[Span] = []
    at = 0
    try:
        for token, value in lexer.get_tokens(code):
            while token not in HighlightTheme.STYLES and token.parent is not None:
                token = token.parent
            style = HighlightTheme.STYLES.get(token, "")
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
    lines.append(Content("".join(text), spans))
    return lines if "\n".join(line.plain for line in lines) == code else None
