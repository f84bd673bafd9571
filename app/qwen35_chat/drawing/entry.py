"""What all entries of the transcript have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import count

from textual.content import Content

from qwen35_chat.drawing.line import EMPTY_LINE
from qwen35_chat.drawing.lines import action
from qwen35_chat.drawing.parts import Column, FixedPart, Part
from qwen35_chat.drawing.wrapping import wrap

_keys = count()


class TranscriptEntry(ABC):
    """A message, or a notice of the app.

    Attributes:
        key: names it in actions; that of a later one is greater.
        message: its id in the library; None before it has one.
        indent: columns to its left.
        author: "user", "assistant", or "" for a notice.
        version: which of how many versions of this message it is, from 1.
        changed: its parts are out of date.
    """

    indent = 1
    author = ""

    def __init__(self, message: int | None = None, version: tuple[int, int] = (1, 1)):
        self.key = next(_keys)
        self.message = message
        self.version = version
        self._column: Column | None = None
        self.changed = True

    @property
    def copy_text(self) -> str:
        """What copying it puts on the clipboard."""
        return ""

    @property
    def sources(self) -> Sequence[str]:
        """The texts whose lines its parts show, as they were written; "" for what is folded."""
        return []

    @property
    def code_blocks(self) -> list[str]:
        """Its blocks of code."""
        return []

    @property
    def commands(self) -> Sequence[str]:
        """The names of the commands on a message that are of use here."""
        return ["mark_copy"]

    @property
    def complete(self) -> bool:
        """Whether its text is complete, so that code may get colours."""
        return True

    def invalidate(self) -> None:
        """Make its parts again when it is drawn next."""
        self.changed = True

    def toggle(self) -> None:  # noqa: B027 - most entries cannot be folded
        """Fold or unfold it, if it can be folded."""

    def column(self, width: int) -> Column:
        """Its parts for a width in cells, with an empty line at the end."""
        width = max(width - self.indent, 1)
        if self.changed or self._column is None:
            end = FixedPart(lambda _: [EMPTY_LINE])
            self._column = Column([*self._parts(), *self._version_parts(), end], width)
            self.changed = False
        elif self._column.width != width:
            self._column = Column(self._column.parts, width)
        return self._column

    def estimate(self, width: int) -> int:
        """Roughly its number of lines, without a layout."""
        return 2

    @abstractmethod
    def _parts(self) -> Sequence[Part]:
        """Its parts."""

    def _version_parts(self) -> Sequence[Part]:
        which, total = self.version
        if total < 2:
            return []
        shown = Content.assemble(
            Content.styled("<", ".link").stylize(action("version", self.key, -1)),
            (f" {which}/{total} ", ".muted"),
            Content.styled(">", ".link").stylize(action("version", self.key, 1)),
        )
        return [FixedPart(lambda width: wrap(shown, width))]
