"""Sampling parameters and the one table of their ranges. Never imports mlx."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown

# Numbers beyond this cannot be stored: SQLite and JSON readers keep 64 bits.
_WHOLE_LIMIT = 2**63
# In place of a number of tokens: as many as there is room for.
NO_LIMIT = -1


@dataclass(frozen=True, slots=True)
class Range:
    """The allowed values of a parameter.

    Attributes:
        low, high: bounds, both included unless `above` or `below` excludes them.
        whole: whether only whole numbers are allowed.
        unlimited: whether `NO_LIMIT` is allowed, too.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    unlimited: bool = False

    def contains(self, value: object) -> bool:
        """Whether `value` is a finite number in this range; a boolean is not a number.

        Whole numbers of more than 64 bits are in no range. Below that, they are compared exactly.
        """
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number: Any = int(value) if isinstance(value, Integral) else value
        if not -_WHOLE_LIMIT <= number < _WHOLE_LIMIT:
            return False
        if self.whole and number % 1:
            return False
        if self.unlimited and number == NO_LIMIT:
            return True
        low = number > self.low if self.above else number >= self.low
        return low and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        """For messages, such as "a number above 0 and at most 1"."""
        number = "a whole number" if self.whole else "a number"
        if self.unlimited:
            number = f"{NO_LIMIT} (no limit) or {number}"
        if math.isinf(self.high):
            return f"{number} of {self.low:g} or more"
        if self.above:
            return f"{number} above {self.low:g} and at most {self.high:g}"
        return f"{number} from {self.low:g} to {'below ' if self.below else ''}{self.high:g}"


# The upper bounds catch typing errors such as a temperature of 700.
RANGES: Mapping[str, Range] = {
    "temperature": Range(0, 100, below=True),
    "top_p": Range(0, 1, above=True),
    "top_k": Range(0, whole=True),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "repetition_penalty": Range(0, 10, above=True),
}
# Numbers of tokens that a reply may have, and that it may think.
LIMITS: Mapping[str, Range] = {
    "max_tokens": Range(1, whole=True, unlimited=True),
    "thinking_budget": Range(0, whole=True, unlimited=True),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters, under the names that model cards use.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: keeps the most likely tokens that together have this probability; 1 keeps all.
        top_k: keeps this many of the most likely tokens; 0 keeps all.
        min_p: keeps tokens with at least this share of the highest probability; 0 keeps all.
        presence_penalty: subtracted from the logit of every token in the reply so far.
        repetition_penalty: divides the positive and multiplies the negative of those logits; 1 is
            off.

    Raises:
        Qwen35Error: a value is out of its range.
    """

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    min_p: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, bounds in RANGES.items():
            value = getattr(self, name)
            if not bounds.contains(value):
                raise Qwen35Error(f"{name} is {shown(value)}: it must be {bounds}")
            object.__setattr__(self, name, int(value) if bounds.whole else float(value))

    def updated(self, changes: Mapping[str, Any]) -> "Sampling":
        """A copy with the values of `changes` that are not None.

        Raises:
            Qwen35Error: a name is unknown, or a value is out of its range.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(changes) - known, key=str):
            raise Qwen35Error(
                f"{shown(unknown[0])} is not a sampling parameter: {', '.join(sorted(known))} are"
            )
        return replace(self, **{name: v for name, v in changes.items() if v is not None})

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> "Sampling":
        """The defaults in a checkpoint's generation_config.json.

        Numbers may be written as text, null stands for a missing value, and other settings are
        skipped. A top_k of -1 keeps all tokens, as elsewhere. With `do_sample` false, temperature
        is 0.

        Raises:
            Qwen35Error: a value is out of its range.
        """
        found = {name: _written_number(config.get(name)) for name in RANGES}
        if found["top_k"] == -1:
            found["top_k"] = 0
        if str(config.get("do_sample")).lower() in ("false", "0"):
            found["temperature"] = 0
        try:
            return cls().updated(found)
        except Qwen35Error as error:
            raise Qwen35Error(f"generation_config.json: {error}") from None


def _written_number(value: object) -> object:
    """The number that a text spells; any other value as it is."""
    # Longer texts are no number that anyone means.
    if isinstance(value, str) and len(value) <= 40:
        try:
            return float(value)
        except ValueError:
            return value
    return value
