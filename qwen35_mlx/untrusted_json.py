"""JSON that others wrote: parsed within bounds, and read field by field."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from qwen35_mlx.errors import Qwen35Error, shown

MAX_DEPTH = 32
# Strings, brackets and commas of one text. The header of 170,000 tensors has as many; parsed, it
# takes less than 1 GB whatever it holds.
MAX_TOKENS = 3_000_000
# Sizes of tensors and token ids: MLX counts along an axis in 31 bits.
MAX_SIZE = 2**31 - 1

# An unclosed string is a token too: otherwise each of its quotes would search to the end again.
_T = TypeVar("_T")
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DEPTH_CHANGE = {"[": 1, "{": 1, "]": -1, "}": -1}


def parse_json(text: str) -> Any:
    """The value of a JSON text, stricter than `json.loads` and with bounds.

    A whole number beyond 64 bits becomes a float, as in most other languages.

    Raises:
        ValueError: it is not JSON, nested deeper than `MAX_DEPTH`, has more than `MAX_TOKENS`
            tokens, a key twice in one object, a number that is not finite, or half a surrogate
            pair, which is no Unicode text.
    """
    _check_bounds(text)
    value = json.loads(
        text,
        object_pairs_hook=_without_duplicates,
        parse_int=_whole_number,
        parse_float=_finite_number,
        parse_constant=_finite_number,
    )
    if _ESCAPED_SURROGATE.search(text):
        _check_unicode(value)
    return value


def _check_bounds(text: str) -> None:
    depth = 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        depth += _DEPTH_CHANGE.get(token[0], 0) if token.end() - token.start() == 1 else 0
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if count > MAX_TOKENS:
            raise ValueError(f"it has more than {MAX_TOKENS:,} parts")


def _check_unicode(value: Any) -> None:
    """Raise UnicodeEncodeError, a ValueError, for half a surrogate pair in any string."""
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _whole_number(digits: str) -> int | float:
    if len(digits) <= 20 and -(2**63) <= (number := int(digits)) < 2**63:
        return number
    return _finite_number(digits)


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(text)} is not finite")
    return number


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a JSON object, each checked as it is read. null counts as missing.

    Attributes:
        values: the object.
        source: the file it is from, as error lines name it: "config.json".
    """

    values: Mapping[str, Any]
    source: str

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> float:
        """A finite number from `low` to `high`.

        Raises:
            Qwen35Error: it is another value, or missing without a default.
        """
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise Qwen35Error(f"{self.source} has no '{name}': is this a Qwen3.5 checkpoint?")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(name, "not a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(name, "not a finite number")
        if not low <= value <= high:
            raise self._error(name, f"not a number from {low:g} to {high:g}")
        return value

    def whole(
        self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE
    ) -> int:
        """A whole number from `low` to `high`.

        Raises:
            Qwen35Error: it is another value, or missing without a default.
        """
        value = self.number(name, default)
        if value != math.floor(value) or value < low:
            kind = "a positive whole number" if low == 1 else f"a whole number of {low} or more"
            raise self._error(name, f"not {kind}")
        if value > high:
            raise self._error(name, f"more than {high:,}, the most that is supported")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false.

        Raises:
            Qwen35Error: it is another value.
        """
        return self._typed(name, bool, default, "neither true nor false")

    def text(self, name: str, default: str) -> str:
        """A string.

        Raises:
            Qwen35Error: it is another value.
        """
        return self._typed(name, str, default, "not a text")

    def section(self, name: str) -> "Fields":
        """The fields of an object inside this one; none if it is missing.

        Raises:
            Qwen35Error: it is another value.
        """
        return Fields(self._typed(name, Mapping, {}, "not an object"), self.source)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Token ids: one or a list of them; none if the field is missing.

        Raises:
            Qwen35Error: it is another value.
        """
        value = self.values.get(name)
        if value is None:
            return ()
        listed = value if isinstance(value, list) else [value]
        ids: list[Any] = [int(i) if isinstance(i, float) and i.is_integer() else i for i in listed]
        if not all(type(i) is int and 0 <= i <= MAX_SIZE for i in ids):
            raise self._error(name, "not a token id or a list of them")
        return tuple(ids)

    def _typed(self, name: str, kind: type[_T], default: _T, problem: str) -> _T:
        """The value of a field, or the default; `problem` is what a value of another type is."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self._error(name, problem)
        return value

    def _error(self, name: str, problem: str) -> Qwen35Error:
        value = shown(self.values.get(name))
        return Qwen35Error(f"{self.source}: '{name}' is {value}, {problem}: fetch the file again")
