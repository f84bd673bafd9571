"""The parts of an entry, and where their lines are.

A part is laid out at once, so it is small: a long text has many. Only those near the view are laid
out; the height of the others is an estimate.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from textual.content import Content

from qwen35_chat.drawing.line import Line, joined_line, sourced
from qwen35_chat.drawing.lines import Code
from qwen35_chat.drawing.source_lines import SourceText
from qwen35_chat.drawing.wrapping import wrap


class Part(ABC):
    """Lines that are laid out together, for one width at a time.

    Attributes:
        place: the number of the text that it shows a piece of (`TranscriptEntry.sources`), and
            where that piece begins; None if it shows none.
        least: lines that it counts for at least, so that the work of a frame is bounded.
    """

    least = 1

    def __init__(self, place: tuple[int, int] | None = None) -> None:
        self.place = place
        self._lines: list[Line] = []
        self._width = -1

    def lines(self, width: int) -> list[Line]:
        """Its lines in `width` cells."""
        if width != self._width:
            self._lines = self._layout(width)
            self._width = width
        return self._lines

    def height(self, width: int) -> int:
        """Its number of lines; an estimate if they are not laid out for this width."""
        return len(self._lines) if width == self._width else self._estimate(width)

    def forget(self) -> None:
        """Lay it out again when its lines are needed next."""
        self._width = -1

    @property
    def laid_out(self) -> bool:
        return self._width >= 0

    @property
    def codes(self) -> Sequence[Code]:
        """The blocks of code in it, once it has been laid out."""
        return ()

    @abstractmethod
    def _layout(self, width: int) -> list[Line]: ...

    @abstractmethod
    def _estimate(self, width: int) -> int: ...


class FixedPart(Part):
    """A part of a few lines: a head, a note, an empty line. It may have none, in a narrow width.

    Args:
        estimate: roughly its number of lines.
        place: as for `Part`.
    """

    least = 0  # an entry has but a few of these

    def __init__(
        self,
        layout: Callable[[int], list[Line]],
        estimate: int = 1,
        place: tuple[int, int] | None = None,
    ):
        super().__init__(place)
        self._make = layout
        self._number = estimate

    def _layout(self, width: int) -> list[Line]:
        return self._make(width)

    def _estimate(self, width: int) -> int:
        return self._number


class PlainPart(Part):
    """A piece of plain text.

    Args:
        joined: it continues a line of the part before it.
        place: as for `Part`.
        first, rest, fill: as for `wrap`.
    """

    def __init__(
        self,
        text: str,
        style: str = "",
        *,
        joined: bool = False,
        place: tuple[int, int] | None = None,
        first: str = "",
        rest: str = "",
        fill: str = "",
    ):
        super().__init__(place)
        self._content = Content.styled(text, style) if style else Content(text)
        self._joined = joined
        self._around = first, rest, fill

    def _layout(self, width: int) -> list[Line]:
        lines = wrap(self._content, width, *self._around)
        if self._joined:
            lines[0] = joined_line(lines[0])
        if self.place is not None:
            stream, start = self.place
            lines = sourced(lines, SourceText(stream, self._content.plain, start).plain())
        return lines

    def _estimate(self, width: int) -> int:
        return estimate(self._content.plain, width)


class Column:
    """Parts one above the other, in a width."""

    def __init__(self, parts: Sequence[Part], width: int):
        self.parts = parts
        self.width = width
        self._tops: list[int] = []

    @property
    def height(self) -> int:
        """Its number of lines, as far as it is known."""
        return self._all_tops()[-1]

    def top(self, at: int) -> int:
        """The line at which a part begins."""
        return self._all_tops()[at]

    def part_at(self, y: int) -> int:
        """The part with line `y`; the last one if there is no such line."""
        return min(max(bisect_right(self._all_tops(), y) - 1, 0), max(len(self.parts) - 1, 0))

    def line(self, y: int) -> Line | None:
        """Line `y`; None if there is none."""
        if not self.parts or not 0 <= y < self.height:
            return None
        at = self.part_at(y)
        lines = self.parts[at].lines(self.width)
        offset = y - self.top(at)
        return lines[offset] if offset < len(lines) else None

    def lay_out_up(self, at: int, lines: int) -> int:
        """Lay out parts from `at` upwards. Returns how many of `lines` lines are missing then."""
        while at >= 0 and lines > 0:
            lines -= max(self._lay_out(at), self.parts[at].least)
            at -= 1
        return lines

    def lay_out_down(self, at: int, lines: int) -> int:
        """As `lay_out_up`, downwards."""
        while at < len(self.parts) and lines > 0:
            lines -= max(self._lay_out(at), self.parts[at].least)
            at += 1
        return lines

    def _lay_out(self, at: int) -> int:
        before = self.parts[at].height(self.width)
        height = len(self.parts[at].lines(self.width))
        if height != before:
            self._tops = []
        return height

    def _all_tops(self) -> list[int]:
        if not self._tops:
            self._tops = [0, *accumulate(part.height(self.width) for part in self.parts)]
        return self._tops


def estimate(text: str, width: int) -> int:
    """The lines that a text takes, if most of its own are shorter than the screen."""
    return text.count("\n") + len(text) // max(width, 1) + 1
