"""Values, operand pairs and questions that training never sees.

Values and pairs are selected by a hash of their text; the questions about the program and of
newcomers are listed in heldout_guide.toml.
"""

import random
import re
import tomllib
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scripts.demo_training.guide import frames
from scripts.demo_training.words import listed

LONGEST = 150  # characters of a held-out question, with what may stand around it
QUESTIONS = Path(__file__).with_name("heldout_guide.toml")
ONSETS = listed("b br c ch d dr f fl g gr h j k kl l m n p pr r s st t tr v w z th sh")
VOWELS = listed("a e i o u a e i o ai ea io")
CODAS = ["", "", "", "n", "r", "l", "s", "m", "k", "t", "nd", "x", "rn"]


def is_held_out(key: str) -> bool:
    """Whether a key belongs to the evaluation, as one key in eight does."""
    return zlib.crc32(key.encode()) % 8 == 0


@cache
def heldout_questions() -> dict[str, Any]:
    """The tables of heldout_guide.toml."""
    return tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))


def squeezed(text: str) -> str:
    """The letters and digits of a text in lower case: what two wordings of it have in common."""
    return re.sub(r"[\W_]+", "", text.lower())


@cache
def _reserved() -> frozenset[str]:
    tables = dict(heldout_questions())
    texts = [asked["question"] for asked in tables.pop("asked")]
    texts += tables.pop("ends")["questions"]
    texts += [text for listed_texts in tables.values() for text in listed_texts]
    return frozenset(map(squeezed, texts)) - {""}


def is_reserved(question: str) -> bool:
    """Whether the evaluation asks this question.

    Marks, spaces, capitals, a greeting before it and a "please" after it make no difference.
    """
    if len(question) > LONGEST:
        return False
    bare = squeezed(question)
    starts, ends = _trimmings()
    tails = [bare, *(bare.removesuffix(end) for end in ends if bare.endswith(end))]
    heads = ["", *(start for start in starts if bare.startswith(start))]
    return any(tail.removeprefix(head) in _reserved() for tail in tails for head in heads)


@cache
def _trimmings() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What `guide.typed` and `guide.typed_zh` put before and after a question, squeezed."""
    found = frames()
    starts = {squeezed(text) for text in found["openers"] + found["openers_zh"]}
    ends = {squeezed(text) for text in found["closers"] + found["closers_zh"]}
    return tuple(sorted(starts)), tuple(sorted(ends))


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
