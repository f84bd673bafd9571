"""Settings as TOML: read from the text of a file, with the line of what is wrong in it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen35_chat.keys import key_names, shown_keys
from qwen35_chat.settings import Settings, setting_problem
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line


def parse_settings(text: str, file: Path, commands: Mapping[str, str] | None = None) -> Settings:
    """The settings in the text of a file.

    Args:
        file: its path, for messages.
        commands: as for `setting_problem`.

    Raises:
        Qwen35Error: the text is not TOML, or a value is invalid; names the file, the line and the
            setting.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of TOML, or a number or a nesting too long
        raise Qwen35Error(f"{file}: {one_line(error)}: correct it, or remove the file") from None
    values: dict[str, Any] = {}
    for name, value in data.items():
        entries = value if isinstance(value, dict) else {}
        nested = {f"{name}.{key}": entry for key, entry in entries.items()}
        for full_name, entry in {name: value, **nested}.items():
            if found := setting_problem(full_name, entry, commands):
                raise _error_at(text, file, full_name, found)
        values[name] = tuple(value) if isinstance(value, list) else value
    if commands is not None and (conflict := _key_conflict(values.get("keys", {}), commands)):
        raise _error_at(text, file, *conflict)
    return Settings(**values)


def _key_conflict(keys: Mapping[str, str], commands: Mapping[str, str]) -> tuple[str, str] | None:
    """The first setting whose key is taken by another command of the same scope, and why."""
    taken: dict[tuple[str, str], str] = {}
    for name, value in keys.items():
        for key in key_names(value):
            other = taken.setdefault((commands[name], key), name)
            if other != name:
                return f"keys.{name}", f"has {shown_keys(key)}, as keys.{other} does: change one"
    return None


def _error_at(text: str, file: Path, name: str, message: str) -> Qwen35Error:
    line = line_of(text, name)
    place = f", line {line}" if line else ""
    return Qwen35Error(f"{file}{place}: {name} {message}")


def line_of(text: str, name: str) -> int | None:
    """The line, counted from 1, of the statement that defines a setting; None if there is none.

    tomllib gives no positions, so this parses ever longer prefixes of the text: the statement
    begins after the last prefix that is valid without it.

    Args:
        text: valid TOML.
        name: a setting, a table, or `table.key`.
    """
    lines = text.split("\n")
    start = 0
    for end in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        if _defines(data, name):
            return start + 1
        start = end
    return None


def _defines(data: Mapping[str, Any], name: str) -> bool:
    table, _, key = name.partition(".")
    entries = data.get(table)
    return name in data or (isinstance(entries, dict) and key in entries)
