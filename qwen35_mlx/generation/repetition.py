"""Replies that repeat themselves without end.

A model that has fallen into a loop writes until the context is full. Text that is meant repeats
itself, too, and for long: tables, rows of zeros, a line that was asked for a hundred times. So a
reply counts as endless only if its last 4096 tokens, or a longer span, are one piece over and over,
token by token, at least eight times. A piece of few different tokens, such as a row of zeros, needs
a span of 16,384. No file of 16 million tokens of code, data and prose has one.
"""

from collections.abc import Sequence

SPANS = (4096, 8192, 16_384, 32_768)
REPEATS = 8
# A piece with fewer different tokens is poor, and must fill `POOR_SPAN` tokens.
RICH, POOR_SPAN = 16, 16_384


def repeats_without_end(ids: Sequence[int]) -> bool:
    """Whether a reply has come to repeat itself without end; called after every token of it.

    A span is looked at whenever an eighth of it is new, so a token costs the same at any length.
    """
    return any(
        len(ids) >= span and len(ids) % (span // REPEATS) == 0 and _is_one_piece(ids[-span:])
        for span in SPANS
    )


def _is_one_piece(ids: Sequence[int]) -> bool:
    """Whether the tokens of a span are one piece, repeated."""
    most = len(ids) // REPEATS
    different = len(set(ids))
    if different > most or (different < RICH and len(ids) < POOR_SPAN):
        return False
    return _period(ids) <= most


def _period(ids: Sequence[int]) -> int:
    """The smallest distance at which all tokens are equal, as Knuth, Morris and Pratt find it."""
    borders = [0]  # of each prefix, the longest that it also ends with
    length = 0
    for token in ids[1:]:
        while length and token != ids[length]:
            length = borders[length - 1]
        length += token == ids[length]
        borders.append(length)
    return len(ids) - length
