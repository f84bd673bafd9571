"""Hints on keys, in which the keys stand out from what they do."""

import re

from textual.content import Content

from qwen35_chat.keys import SHOWN_NAMES

_NAMES = "|".join(sorted(map(re.escape, SHOWN_NAMES), key=len, reverse=True))
_KEY = re.compile(rf"\b(?:(?:Ctrl|Shift)\+)+(?:{_NAMES}|\w)(?!\w)|\b(?:{_NAMES}|F\d+)\b")
KEY_STYLE = "$foreground not dim"


def with_keys(hint: str) -> Content:
    """A hint such as "Enter opens · Ctrl+R rename", with its keys as bright as other text."""
    content = Content(hint)
    for match in _KEY.finditer(hint):
        content = content.stylize(KEY_STYLE, *match.span())
    return content
