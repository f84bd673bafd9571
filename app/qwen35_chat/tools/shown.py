"""Tools and calls as the user reads them. All of it was written by a model or by a server."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from qwen35_chat.tools.calls import ServerState, Tool
from qwen35_chat.tools.permissions import Permission
from qwen35_mlx.json_text import write_json
from qwen35_mlx.terminal import visible, visible_line

LONGEST_NAME = 80
LONGEST_TEXT = 20_000  # characters of a text in the arguments of a call
SHORT_CALL = 60  # characters of the arguments of a call that stay on one line
MOST_LINES = 2_000  # the screen takes seconds to lay out a hundred thousand
PERMISSION_WORDS: Mapping[Permission, str] = {
    "ask": "asks before each call",
    "always": "always runs",
    "never": "never runs",
}
# Drawn as nothing, or as a space: Default_Ignorable_Code_Point of Unicode 16 without those of the
# categories below, and the empty Braille pattern.
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180F, 0x2800, 0x3164, 0xFFA0}
_BLANK |= {*range(0x180B, 0x180E), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
_HIDING_CATEGORIES = ("Cf", "Zl", "Zp", "Co", "Cn")  # some of them turn a line around
_JSON_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_LINE_BREAK = re.compile(r"[][{},]")  # behind or before these, where JSON is indented
_JSON_CHARACTER = re.compile(r"\\u[0-9a-f]{4}|\\.|[^\\]")
STATUS_WORDS = {"off": "off", "starting": "starting", "ready": "on", "failed": "failed"}


def shown_name(name: str) -> str:
    """A name, on one line."""
    return _plain(visible_line(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"))


def shown_arguments(arguments: Mapping[str, Any], indent: int | None = 2) -> str:
    """The arguments of a call as JSON, with nothing in it that moves or hides text.

    All names and values are there, on one line if they are few or would take too many. Of a text of
    more than `LONGEST_TEXT` characters, a name or a value, the middle is left out.
    """
    text = write_json(dict(arguments), separators=(", ", ": "))
    breaks = len(_LINE_BREAK.findall(_JSON_TEXT.sub("", text)))
    short = len(text) <= SHORT_CALL and len(arguments) <= 1
    if indent is not None and breaks <= MOST_LINES and not short:
        text = write_json(dict(arguments), indent)
    return _plain(visible(_JSON_TEXT.sub(_without_middle, text)))


def _without_middle(match: re.Match[str]) -> str:
    """A text of JSON, cut. What stands for the middle is outside of quotes, where no text is."""
    if match.end() - match.start() - 2 <= LONGEST_TEXT:
        return match[0]
    # An escape is one character: half of one could look like the end of the text.
    characters = _JSON_CHARACTER.findall(match[0][1:-1])
    half = LONGEST_TEXT // 2
    more = len(characters) - 2 * half
    if more <= 0:
        return match[0]
    begin, end = "".join(characters[:half]), "".join(characters[-half:])
    return f'"{begin}" … {more:,} more characters, which are not shown … "{end}"'


def shown_state(state: ServerState) -> str:
    """What a server is doing, on one line."""
    if state.status == "ready":
        number = len(state.tools)
        return f"on, {number} {'tool' if number == 1 else 'tools'}"
    words = STATUS_WORDS[state.status]
    return f"{words}: {visible_line(state.error)}" if state.error else words


def said_of(tool: Tool) -> str:
    """What a server says of its tool, as its words; "" if that is nothing."""
    words = first_line(tool.description)
    return f"{shown_name(tool.server)} says of it: \u201c{words}\u201d" if words else ""


def first_line(text: str) -> str:
    """The first line of a description."""
    return _plain(visible_line(text.strip().partition("\n")[0][:200]))


def _plain(text: str) -> str:
    """The text with escapes for characters that cannot be seen."""
    return "".join(f"\\u{ord(char):04x}" if _hides(char) else char for char in text)


def _hides(char: str) -> bool:
    return ord(char) in _BLANK or unicodedata.category(char) in _HIDING_CATEGORIES
