"""Tools and calls as the user reads them. All of it was written by a model or by a server."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from qwen35_chat.tools.calls import ServerState
from qwen35_chat.tools.permissions import Permission
from qwen35_mlx.json_text import write_json
from qwen35_mlx.terminal import visible, visible_line

LONGEST_NAME = 80
LONGEST_ARGUMENTS = 20_000  # characters
PERMISSION_WORDS: Mapping[Permission, str] = {
    "ask": "asks before each call",
    "always": "always runs",
    "never": "never runs",
}
STATUS_WORDS = {"off": "off", "starting": "starting", "ready": "on", "failed": "failed"}


def shown_name(name: str) -> str:
    """A name, on one line."""
    return _plain(visible_line(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"))


def shown_arguments(arguments: Mapping[str, Any], indent: int | None = 2) -> str:
    """The arguments of a call as JSON, with nothing in it that moves or hides text."""
    separators = (", ", ": ") if indent is None else None
    text = write_json(dict(arguments), indent, separators)
    more = len(text) - LONGEST_ARGUMENTS
    if more > 0:
        text = f"{text[:LONGEST_ARGUMENTS]}\n… {more:,} more characters, which are not shown"
    return _plain(visible(text))


def shown_state(state: ServerState) -> str:
    """What a server is doing, on one line."""
    if state.status == "ready":
        number = len(state.tools)
        return f"on, {number} {'tool' if number == 1 else 'tools'}"
    words = STATUS_WORDS[state.status]
    return f"{words}: {visible_line(state.error)}" if state.error else words


def first_line(text: str) -> str:
    """The first line of a description."""
    return _plain(visible_line(text.strip().partition("\n")[0][:200]))


def _plain(text: str) -> str:
    """The text with escapes for invisible characters: some of them turn a line around."""
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cf", "Zl", "Zp", "Co", "Cn") else c
        for c in text
    )
