"""A line of facts, each of which becomes shorter before another one has to leave."""

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

SEPARATOR = Content(" · ")
GAP = 2  # cells between the left and the right part
EXTRA = 9  # the rank of what is shown only where all others have their fullest forms


@dataclass(frozen=True, slots=True)
class Segment:
    """One fact.

    Attributes:
        forms: the ways to say it, the fullest first.
        rank: how soon it leaves a narrow line; 0 leaves last.
        right: it stands at the right end.
    """

    forms: tuple[Content, ...]
    rank: int
    right: bool = False


def segment(*forms: str, rank: int, style: str = "", right: bool = False) -> Segment:
    """A fact in one style. Forms that say the same as the one before are left out."""
    shown = tuple(Content.styled(form, style) for form in dict.fromkeys(forms))
    return Segment(shown, rank, right)


def line_of(segments: Sequence[Segment], width: int) -> Content:
    """The segments in `width` cells.

    As many as fit in their shortest forms stay, by rank; then each gets, by rank, the fullest form
    for which the others leave room.
    """
    kept: dict[int, int] = {}  # place in `segments`: which form
    by_rank = sorted(range(len(segments)), key=lambda at: segments[at].rank)
    for at in by_rank:
        shortest = {**kept, at: len(segments[at].forms) - 1}
        if segments[at].rank < EXTRA and _cells(segments, shortest) <= width:
            kept = shortest
    for at in by_rank:
        forms = range(len(segments[at].forms))
        if at in kept or segments[at].rank >= EXTRA:
            fits = (form for form in forms if _cells(segments, {**kept, at: form}) <= width)
            if (form := next(fits, None)) is not None:
                kept[at] = form
    left, right = _sides(segments, kept)
    gap = width - left.cell_length - right.cell_length
    return left + " " * max(gap, 0) + right


def _sides(segments: Sequence[Segment], kept: dict[int, int]) -> tuple[Content, Content]:
    def joined(right: bool) -> Content:
        shown = [s.forms[kept[at]] for at, s in enumerate(segments) if at in kept]
        sides = [s.right for at, s in enumerate(segments) if at in kept]
        return SEPARATOR.join(
            [text for text, side in zip(shown, sides, strict=True) if side is right]
        )

    return joined(False), joined(True)


def _cells(segments: Sequence[Segment], kept: dict[int, int]) -> int:
    left, right = (side.cell_length for side in _sides(segments, kept))
    return left + right + (GAP if left and right else 0)
