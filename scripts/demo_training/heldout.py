"""Values and operand pairs that training never sees, selected by a hash of their text."""

import random
import zlib
from collections.abc import Callable, Sequence

from scripts.demo_training.words import listed

ONSETS = listed("b br c ch d dr f fl g gr h j k kl l m n p pr r s st t tr v w z th sh")
VOWELS = listed("a e i o u a e i o ai ea io")
CODAS = ["", "", "", "n", "r", "l", "s", "m", "k", "t", "nd", "x", "rn"]


def is_held_out(key: str) -> bool:
    """Whether a key belongs to the evaluation, as one key in eight does."""
    return zlib.crc32(key.encode()) % 8 == 0


def pseudo_word(rng: random.Random) -> str:
    """A made-up word of two or three syllables, in lower case."""
    parts = []
    for _ in range(rng.choice((2, 2, 2, 3))):
        parts.append(rng.choice(ONSETS) + rng.choice(VOWELS))
    return "".join(parts) + rng.choice(CODAS)


class Split:
    """One side of the split: the training values or the held-out ones."""

    def __init__(self, held_out: bool) -> None:
        self.held_out = held_out

    def accepts(self, key: str) -> bool:
        return is_held_out(key) == self.held_out

    def draw(self, key: str, make: Callable[[], str]) -> str:
        """Repeat `make` until `key:value` is on this side."""
        while True:
            value = make()
            if self.accepts(f"{key}:{value}"):
                return value

    def pick(self, rng: random.Random, key: str, values: Sequence[str]) -> str:
        """One of `values` on this side, or any of them if none is on it."""
        mine = [v for v in values if self.accepts(f"{key}:{v}")]
        return rng.choice(mine or list(values))
