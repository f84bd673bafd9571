"""Changing one value in the text of a TOML file; everything else stays as it was written.

Comments within the brackets of a value that is changed are lost; all others stay.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_NAME = r"(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')"
_PATH = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_KEY = re.compile(rf"[ \t]*({_PATH})[ \t]*=[ \t]*")
_HEADER = re.compile(rf"[ \t]*\[[ \t]*({_PATH})[ \t]*\][ \t]*(#.*)?")


@dataclass(frozen=True, slots=True)
class Statement:
    """What the lines [start, end) say.

    Attributes:
        table: the table that the header above it names; "" for none.
        path: its own key, dotted; of a header: "".
    """

    start: int
    end: int
    table: str
    path: str

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.table, self.path) if part)


def statements(lines: Sequence[str]) -> Iterator[Statement]:
    """All of a text, in order; what is not TOML is left out."""
    table = ""
    at = 0
    while at < len(lines):
        if header := _HEADER.fullmatch(lines[at]):
            table = _plain(header.group(1))
            yield Statement(at, at + 1, table, "")
        elif key := _KEY.match(lines[at]):
            end = _value_end(lines, at)
            yield Statement(at, end, table, _plain(key.group(1)))
            at = end
            continue
        at += 1


def line_of(text: str, name: str) -> int | None:
    """The line, from 1, that gives `name` (or the table of that name) its value."""
    known = list(statements(text.splitlines()))
    table = name.rpartition(".")[0]
    for wanted in (name, table):  # the second: in a table of one line, {name = value}
        for found in known:
            if found.name == wanted and wanted:
                return found.start + 1
    return None


def with_value(text: str, name: str, value: object) -> str:
    """A file's text with one value changed.

    Args:
        name: a key, or `table.key`.
        value: a string, number, truth value or list of them. None takes the line away, and leaves
            a comment behind it.
    """
    lines = text.splitlines()
    known = list(statements(lines))
    table, _, key = name.rpartition(".")
    for found in known:
        if found.path and found.name == name:
            lines[found.start : found.end] = _changed(lines, found, value)
            break
        if found.path and found.name == table and table:
            _change_inline(lines, found, key, value)
            break
    else:
        if value is not None:
            _add(lines, known, table, key, value)
    return "\n".join(lines).strip("\n") + "\n"


def toml(value: object) -> str:
    """A value as TOML has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple() | list():
            return "[" + ", ".join(toml(item) for item in value) + "]"
        case dict():
            inner = ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items())
            return "{ " + inner + " }" if inner else "{}"
        case _:
            return str(value)


def _plain(path: str) -> str:
    """A dotted key without quotes and blanks."""
    return ".".join(part.strip("\"'") for part in re.findall(_NAME, path))


def _value_end(lines: Sequence[str], start: int) -> int:
    """Where the value that begins in line `start` ends: it may go over several lines."""
    for end in range(start + 1, len(lines) + 1):
        if _loaded("\n".join(lines[start:end])) is not None:
            return end
    return start + 1


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _comment(lines: Sequence[str], found: Statement) -> str:
    """What follows the value in its last line, the blanks before it included; "" for nothing."""
    *before, last = lines[found.start : found.end]
    for match in re.finditer(r"[ \t]*#", last):
        if _loaded("\n".join([*before, last[: match.start()]])) is not None:
            return last[match.start() :]
    return ""


def _changed(lines: Sequence[str], found: Statement, value: object) -> list[str]:
    comment = _comment(lines, found)
    if value is None:
        return [comment.strip()] if comment else []
    key = _KEY.match(lines[found.start])
    assert key is not None
    return [f"{key.group()}{toml(value)}{comment}"]


def _change_inline(lines: list[str], found: Statement, key: str, value: object) -> None:
    """Change one value of `table = {key = value}`."""
    whole: Any = _loaded("\n".join(lines[found.start : found.end])) or {}
    for part in found.path.split("."):
        whole = whole.get(part, {}) if isinstance(whole, dict) else {}
    items = {**whole, key: value} if isinstance(whole, dict) else {key: value}
    items = {name: item for name, item in items.items() if item is not None}
    lines[found.start : found.end] = _changed(lines, found, items)


def _add(lines: list[str], known: Sequence[Statement], table: str, key: str, value: object) -> None:
    written = f"{key} = {toml(value)}"
    if table and any(s.name.startswith(f"{table}.") and not s.table for s in known):
        # The table is written as dotted keys, so it may have no header.
        table, written = "", f"{table}.{written}"
    inside = [s for s in known if s.table == table]
    if inside:
        lines.insert(inside[-1].end, written)
    elif table:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[{table}]", written]
    elif known:
        # Before the first table, and the comment that stands right above it.
        at = known[0].start
        while at > 0 and lines[at - 1].lstrip().startswith("#"):
            at -= 1
        lines[at:at] = [written, ""]
    else:
        lines.append(written)
