"""The terminal's background colour: OSC 11 requests it, and the terminal answers as if it typed.

An answer may come late or in pieces, and must never reach what the user types into. Imports no
Textual.
"""

import re

QUERY = "\x1b]11;?\x07"
# Terminals without a notion of it, some of which would print the query.
DEAF = ("dumb", "linux", "unknown", "")
ANSWER_SECONDS = 2.0  # for which a lone escape character may be the beginning of an answer
_ANSWER = re.compile(r"\x1b\]11;([^\x07\x1b]{0,64})(?:\x07|\x1b\\)")
_BEGUN = re.compile(r"\x1b(?:\](?:1(?:1(?:;[^\x07\x1b]{0,64}\x1b?)?)?)?)?\Z")
_TYPED = 2  # characters at the beginning of an answer that a user can type: Alt+]
_COLOUR = re.compile(
    r"rgba?:([0-9a-f]{1,4})/([0-9a-f]{1,4})/([0-9a-f]{1,4})(?:/[0-9a-f]{1,4})?"
    r"|#([0-9a-f]{3}|[0-9a-f]{6})",
    re.I,
)


class AnswerFilter:
    """Takes answers out of what arrives from a terminal.

    Attributes:
        expected: an answer may begin at any time, so that also what a user can type is kept back.
    """

    def __init__(self) -> None:
        self.expected = False
        self._held = ""
        self._colours: list[str] = []

    def feed(self, text: str) -> str:
        """The input without answers. What may be the beginning of one is kept back."""
        text, self._held = self._held + text, ""
        if colours := _ANSWER.findall(text):
            self._colours += colours
            self.expected = False
            text = _ANSWER.sub("", text)
        begun = _BEGUN.search(text)
        if begun and (self.expected or len(begun.group()) > _TYPED):
            text, self._held = text[: begun.start()], begun.group()
        return text

    @property
    def holds(self) -> bool:
        """Whether something is kept back."""
        return bool(self._held)

    def pause(self) -> str:
        """What was kept back and is typed after all, since nothing has followed it at once."""
        if len(self._held) > _TYPED:
            return ""
        typed, self._held = self._held, ""
        return typed

    def take_colour(self) -> str:
        """The colour that was answered last, once; "" for none."""
        colour = self._colours[-1] if self._colours else ""
        self._colours.clear()
        return colour


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
