"""Strings that end a reply, found while it streams in."""

from collections.abc import Sequence

from qwen35_mlx.errors import Qwen35Error


def held_back(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag` without completing it."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


class StopStrings:
    """Text passed through up to the first of some strings; what could begin one is held back.

    Attributes:
        stopped: whether one of them has come; nothing more comes out then.

    Raises:
        Qwen35Error: one of them is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise Qwen35Error("a stop string is empty: leave it out or name some text")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is now certain to come before any stop string."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.stopped = bool(found)
        certain = min(found, default=len(text))
        if not found:
            certain -= max((held_back(text, stop) for stop in self._stops), default=0)
        self._held = "" if found else text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back, at the end of the reply."""
        text, self._held = self._held, ""
        return text
