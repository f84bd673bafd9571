"""JSON of any depth, as models write it and the library stores it.

Python's own reader and writer stop at about a thousand levels, fewer if the stack is already deep.
They do almost all of the work here; what is too deep for them is read and written without
recursion.
As in Python, NaN and the infinities are numbers, so that every stored value has a text.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

Pairs = list[tuple[str, Any]]
_SPACE = " \t\n\r"


class JsonTextError(ValueError):
    """A text is not JSON; the message says where."""


def write_json(
    value: Any, indent: int | None = None, separators: tuple[str, str] | None = None
) -> str:
    """The JSON of a value, not restricted to ASCII.

    Args:
        indent: spaces of each level; None for one line.
        separators: behind an item and behind a name; None for no spaces in one line, and for a
            space behind names in several.
    """
    comma, colon = separators or (",", ":" if indent is None else ": ")
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, separators=(comma, colon))
    except RecursionError:
        return "".join(_pieces(value, indent, comma, colon))


def read_json(text: str, make_object: Callable[[Pairs], Any] = dict) -> Any:
    """The value of a JSON text.

    Args:
        make_object: makes an object of its names and values, which may repeat.

    Raises:
        JsonTextError: it is not JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=None if make_object is dict else make_object)
    except RecursionError:
        return _Reader(text, make_object).read()
    except ValueError as error:
        raise JsonTextError(str(error)) from None


def _pieces(value: Any, indent: int | None, comma: str, colon: str) -> Iterator[str]:
    """The text of a value in pieces, as `json.dumps` writes it."""
    # For each open object or list: what is left of it, and its closing bracket.
    waiting: list[tuple[Iterator[Any], str]] = []

    def line_break() -> str:
        return "" if indent is None else "\n" + " " * indent * len(waiting)

    value_at_hand, first = True, True
    while True:
        if value_at_hand:
            if isinstance(value, dict | list | tuple) and value:
                if isinstance(value, dict):
                    yield "{"
                    waiting.append((iter(value.items()), "}"))
                else:
                    yield "["
                    waiting.append((iter(value), "]"))
                first = True
            else:
                yield json.dumps(value, ensure_ascii=False)
                first = False
        if not waiting:
            return
        items, bracket = waiting[-1]
        try:
            item = next(items)
        except StopIteration:
            waiting.pop()
            yield line_break() + bracket
            value_at_hand = first = False
            continue
        yield ("" if first else comma) + line_break()
        if bracket == "}":
            name, item = item
            yield json.dumps(name, ensure_ascii=False) + colon
        value, value_at_hand = item, True


class _Reader:
    """Reads one JSON text without recursion."""

    def __init__(self, text: str, make_object: Callable[[Pairs], Any]):
        self._text = text
        self._make_object = make_object
        self._at = 0
        decode: Any = json.JSONDecoder()  # `scan_once` is not in its type
        self._scan_once: Any = decode.scan_once

    def read(self) -> Any:
        waiting: list[tuple[list[Any], bool]] = []  # open lists; True for pairs of an object
        names: list[str] = []  # for each open object, the name whose value comes next
        while True:
            start = self._peek()
            if start in ("{", "["):
                self._at += 1
                waiting.append(([], start == "{"))
                if start == "{":
                    names.append("")
                if self._peek() not in ("}", "]"):
                    if start == "{":
                        names[-1] = self._name()
                    continue
                value = None  # an empty one, closed below
            else:
                value = self._value()
                if not waiting:
                    return self._finish(value)
                self._append(waiting, names, value)
            # After a value: close what ends here.
            while waiting:
                items, is_object = waiting[-1]
                sign = self._peek()
                if sign == "," and items:
                    self._at += 1
                    if is_object:
                        names[-1] = self._name()
                    break
                if sign != ("}" if is_object else "]"):
                    raise self._error("a comma or a closing bracket is missing")
                self._at += 1
                waiting.pop()
                if is_object:
                    names.pop()
                value = self._make_object(items) if is_object else items
                if not waiting:
                    return self._finish(value)
                self._append(waiting, names, value)

    @staticmethod
    def _append(waiting: list[tuple[list[Any], bool]], names: list[str], value: Any) -> None:
        items, is_object = waiting[-1]
        items.append((names[-1], value) if is_object else value)

    def _peek(self) -> str:
        """The next character that is no space; "" at the end."""
        text, at = self._text, self._at
        while at < len(text) and text[at] in _SPACE:
            at += 1
        self._at = at
        return text[at : at + 1]

    def _name(self) -> str:
        if self._peek() != '"':
            raise self._error("a name is missing")
        name = self._string()
        if self._peek() != ":":
            raise self._error("a colon is missing")
        self._at += 1
        return name

    def _string(self) -> str:
        try:
            value, self._at = self._scan_once(self._text, self._at)
        except ValueError as error:
            raise JsonTextError(str(error)) from None
        return value

    def _value(self) -> Any:
        """A string, number, true, false or null."""
        try:
            value, self._at = self._scan_once(self._text, self._at)
        except StopIteration:
            raise self._error("a value is missing") from None
        except ValueError as error:
            raise JsonTextError(str(error)) from None
        return value

    def _finish(self, value: Any) -> Any:
        if self._peek():
            raise self._error("something follows the end")
        return value

    def _error(self, what: str) -> JsonTextError:
        return JsonTextError(f"{what}: character {self._at}")
