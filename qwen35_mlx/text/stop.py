"""Strings that end a reply, found in the text as it streams in."""

from collections.abc import Sequence

from qwen35_mlx.errors import Qwen35Error


def partial_match_length(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class StopStrings:
    """Passes text through up to the first stop string; holds back what may be the start of one.

    Attributes:
        found: the stop string that was found; None before. `push` returns "" from then on.

    Raises:
        Qwen35Error: a stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise Qwen35Error("a stop string is empty: leave it out or name some text")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.found is not None

    def push(self, text: str) -> str:
        """The text that is now certain to precede any stop string."""
        if self.stopped:
            return ""
        text = self._held + text
        places = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            end, self.found = min(places)
            self._held = ""
            return text[:end]
        held = max((partial_match_length(text, stop) for stop in self._stops), default=0)
        end = len(text) - held
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """The text that was held back, for the end of the reply."""
        text, self._held = self._held, ""
        return text
