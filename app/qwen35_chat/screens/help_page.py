"""Pages of text: all keys and commands, for F1, and figures."""

import re
import textwrap
from collections.abc import Mapping, Sequence

from textual.content import Content

from qwen35_chat.commands import SCOPES, in_scope, keys_of
from qwen35_chat.keys import shown_keys
from qwen35_chat.mouse_actions import MOUSE_ACTIONS, MOUSE_TITLE
from qwen35_chat.stats import Section

NARROWEST = 8  # cells of the help of a command
WIDE_HELP = 28  # cells, from which the help of a command stands beside its keys


def help_text(remapped: Mapping[str, str], width: int) -> Content:
    """All keys and commands, for F1, in lines of `width` cells."""
    parts: list[Content | str | tuple[str, str]] = []
    for scope, title in SCOPES.items():
        parts.append((f"{title}\n", "bold"))
        for command in in_scope(scope):
            keys = shown_keys(keys_of(command, remapped))
            slash = f"/{command.slash}" if command.slash else ""
            parts += _help_line(f"  {keys:<20}{slash:<11}", command.help, width)
        parts.append("\n")
    parts.append((f"{MOUSE_TITLE}\n", "bold"))
    for action, does in MOUSE_ACTIONS:
        parts += _help_line(f"  {action:<20}", does.replace("`", ""), width)
    return Content.assemble(*parts)


def stats_text(sections: Sequence[Section]) -> Content:
    """Figures, each beside its name."""
    parts: list[Content | str | tuple[str, str]] = []
    for title, values in sections:
        parts.append((f"{title}\n", "bold"))
        for name, value in values:
            parts += [(f"  {name:<15}", "$text-accent"), f"{value}\n"]
        parts.append("\n")
    return Content.assemble(*parts)


def _help_line(named: str, does: str, width: int) -> list[str | tuple[str, str]]:
    if width - len(named) >= WIDE_HELP:
        lines = textwrap.wrap(does, width - len(named))
        return [(named, "$text-accent"), f"\n{' ' * len(named)}".join(lines) + "\n"]
    # Below the keys, and broken between its phrases.
    phrases = re.split(r"(?<=[;,]) ", does)
    lines = [phrases[0]]
    for phrase in phrases[1:]:
        if len(lines[-1]) + len(phrase) + 5 <= width:
            lines[-1] += f" {phrase}"
        else:
            lines.append(phrase)
    lines = [part for line in lines for part in textwrap.wrap(line, max(width - 4, NARROWEST))]
    return [(f"{named.rstrip()}\n", "$text-accent"), *(f"    {line}\n" for line in lines)]
