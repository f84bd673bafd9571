"""The terminal's background colour, which OSC 11 requests and answers. Imports no Textual."""

import re

QUERY = "\x1b]11;?\x07"
# Terminals without a notion of it, some of which would print the query.
DEAF = ("dumb", "linux", "unknown", "")
_ANSWER = re.compile(r"\x1b\]11;([^\x07\x1b]{0,64})(?:\x07|\x1b\\)")
_COLOUR = re.compile(
    r"rgba?:([0-9a-f]{1,4})/([0-9a-f]{1,4})/([0-9a-f]{1,4})(?:/[0-9a-f]{1,4})?"
    r"|#([0-9a-f]{3}|[0-9a-f]{6})",
    re.I,
)


def answered_colour(sequence: str) -> str:
    """The colour that a sequence of the terminal answers with; "" if it is something else."""
    match = _ANSWER.fullmatch(sequence)
    return match[1] if match else ""


def is_light(colour: str) -> bool | None:
    """Whether dark text is readable on a colour as terminals write it; None if it is no colour."""
    match = _COLOUR.fullmatch(colour.strip())
    if match is None:
        return None
    if digits := match[4]:
        size = len(digits) // 3
        parts = [digits[n : n + size] for n in range(0, len(digits), size)]
    else:
        parts = [match[1], match[2], match[3]]
    red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in parts)
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
