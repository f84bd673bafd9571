"""Slash commands, as they are written in the composer and in plain mode."""

import re
from difflib import get_close_matches
from unicodedata import normalize

from qwen35_chat.commands import BY_ALIAS, BY_SLASH, Command
from qwen35_chat.typed_signs import with_ascii_sign
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible_line

LONGEST_SHOWN = 40  # characters of a name in an error
# A slash and a word without another slash, which would make it a path, or a question mark.
_COMMAND = re.compile(r"/([^\W\d_][^\s/\uff0f]*|\?)(?:\s+(.*))?", re.DOTALL)


def parse_slash(text: str) -> tuple[Command, str] | None:
    """The command that a line like `/rename A title` calls; None if it is a message.

    Raises:
        Qwen35Error: it looks like a command, and there is none of this name, or it takes no text.
    """
    match = _COMMAND.fullmatch(with_ascii_sign(text.strip()))
    if not match:
        return None
    name, argument = normalize("NFKC", match.group(1)), (match.group(2) or "").strip()
    command = BY_SLASH.get(name.lower()) or BY_ALIAS.get(name.lower())
    if command is None:
        raise Qwen35Error(_unknown(name))
    if argument and not command.argument:
        raise Qwen35Error(f"/{command.slash} takes nothing after its name")
    return command, argument


def _unknown(name: str) -> str:
    shown = visible_line(name[:LONGEST_SHOWN])
    like = nearest(name.lower())
    hint = f"; did you mean /{like}?" if like else ": /help lists them."
    return f"there is no command /{shown}{hint} As text it goes in backticks: `/{shown}`"


def nearest(name: str) -> str:
    """The slash name that was probably meant; "" if none is near."""
    names = [*BY_SLASH, *BY_ALIAS]
    begun = [known for known in BY_SLASH if len(name) > 1 and known.startswith(name)]
    like = begun or get_close_matches(name[:LONGEST_SHOWN], names, 1, cutoff=0.7)
    return like[0] if like else ""
