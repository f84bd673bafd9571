"""Lines of the text of a message, as it was written.

A place in a message is one of these lines and a character of what is shown of it. It stays where it
is when the text grows, is wrapped at another width, or is folded.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Kind = Literal["plain", "prose", "code", "table", "formula"]


@dataclass(frozen=True, slots=True, eq=False)
class SourceLine:
    """A line of a text as it was written.

    Attributes:
        stream: which text of its entry, as in `TranscriptEntry.sources`.
        start, end: its place in that text, without its line break. It has several lines of the text
            where what is shown of one cannot be told from the next.
        block: where its paragraph, code or table begins in that text.
        kind: "plain" and "code" read as they were written, "prose" without its marks; "table" is a
            row, and "formula" one by itself.
        indent: characters at its start that are not part of the code.
    """

    stream: int
    start: int
    end: int
    block: int
    kind: Kind = "plain"
    indent: int = 0


class SourceText:
    """A piece of a text, by its lines.

    Args:
        stream: as for `SourceLine`.
        text: the piece.
        start: where it begins in the whole text.
    """

    def __init__(self, stream: int, text: str, start: int = 0):
        self.stream = stream
        self.lines = text.split("\n")
        lengths = (len(line) + 1 for line in self.lines)
        self._starts = list(accumulate(lengths, initial=start))

    def start(self, number: int) -> int:
        """Where a line begins in the whole text."""
        return self._starts[min(max(number, 0), len(self.lines))]

    def line(
        self, first: int, end: int, block: int, kind: Kind = "plain", indent: int = 0
    ) -> SourceLine:
        """The lines from `first` to before `end` as one.

        Args:
            block, kind, indent: as for `SourceLine`.
        """
        last = self.start(max(end, first + 1)) - 1
        return SourceLine(self.stream, self.start(first), last, block, kind, indent)

    def plain(self) -> list[SourceLine]:
        """Each line of a text that is shown as it was written."""
        return [self.line(n, n + 1, self.start(0)) for n in range(len(self.lines))]
