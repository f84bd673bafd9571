"""Fewer events, for a view that is updated less often than they arrive."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from qwen35_mlx.session.events import (
    Answer,
    Event,
    Loading,
    PrefillProgress,
    Thinking,
    Written,
)


def merged(events: Iterable[Event]) -> Iterator[Event]:
    """The events, with neighbouring pieces of text joined, and only the latest of progress."""
    for kind, neighbours in groupby(events, type):
        group = list(neighbours)
        if kind is Answer:
            yield Answer("".join(event.text for event in group if isinstance(event, Answer)))
        elif kind is Thinking:
            yield Thinking("".join(event.text for event in group if isinstance(event, Thinking)))
        elif kind in (Loading, PrefillProgress, Written):
            yield group[-1]
        else:
            yield from group
