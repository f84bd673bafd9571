"""Parts of texts in one line of a list."""

import re

from textual.content import Content

from qwen35_mlx.library.search import Snippet
from qwen35_mlx.terminal import visible

_EMPHASIS = re.compile(r"(?<!\w)(\*\*|`)(?=\S)(.+?)(?<=\S)\1(?!\w)")


def one_line(text: str) -> str:
    """`text` without line breaks and control characters."""
    return " ".join(visible(text).split())


def without_marks(snippet: Snippet) -> Snippet:
    """Without the marks of Markdown around bold text and code."""
    marks = [
        (start, start + len(match[1]))
        for match in _EMPHASIS.finditer(snippet.text)
        for start in (match.start(), match.end() - len(match[1]))
    ]

    def moved(place: int) -> int:
        return place - sum(max(min(place, end) - start, 0) for start, end in marks)

    spans = tuple((moved(start), moved(end)) for start, end in snippet.spans)
    return Snippet(_EMPHASIS.sub(r"\2", snippet.text), spans)


def marked(snippet: Snippet, style: str = "") -> Content:
    """A part of a text, with what was searched for marked."""
    text = Content.styled(visible(snippet.text), style)
    for start, end in snippet.spans:
        text = text.stylize("bold $text-accent", start, end)
    return text
