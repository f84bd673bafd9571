"""What a key of vim does to a text."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate

from qwen35_chat.vim.motions import first_sign, on_unit, units_of


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` in place of the units from `start` to before `end`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """What a key does. Places are indices of characters in the text, or in the changed text.

    Attributes:
        cursor: where it is afterwards; None where an undo puts it.
        edit: of the text.
        selection: start and end of what is shown as selected.
        undo: changes to take back; negative: to make again.
    """

    cursor: int | None
    edit: Edit | None = None
    selection: tuple[int, int] | None = None
    undo: int = 0


class UnitText:
    """A text by its units, and steps in it, whose places are those of characters.

    Attributes:
        units: see `motions`.
    """

    def __init__(self, text: str):
        self.units = units_of(text)
        self._starts = [0, *accumulate(map(len, self.units))]

    def character(self, unit: int) -> int:
        return self._starts[unit]

    def unit(self, character: int) -> int:
        """The unit with a character; behind the last one, their number."""
        return bisect_right(self._starts, character) - 1

    def to(self, at: int) -> Step:
        """The step to a unit."""
        return Step(self.character(at))

    def after(self, edit: Edit) -> str:
        """The text with an edit of units."""
        return "".join([*self.units[: edit.start], edit.text, *self.units[edit.end :]])

    def in_characters(self, edit: Edit) -> Edit:
        return Edit(self.character(edit.start), self.character(edit.end), edit.text)

    def edited(self, edit: Edit, cursor: int, *, line: bool = False) -> Step:
        """The step of an edit of units.

        Args:
            cursor: in the units of the changed text.
            line: at the first sign of its line.
        """
        after = UnitText(self.after(edit))
        at = first_sign(after.units, min(cursor, len(after.units))) if line else cursor
        return replace(after.to(on_unit(after.units, at)), edit=self.in_characters(edit))
