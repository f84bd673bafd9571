"""What a user has chosen, in a TOML file that people can read and edit."""

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.requests import Configure

FILE = "settings.toml"
THEMES = ("dark", "light", "ansi")
VIEWS = ("hidden", "collapsed", "open")
THINKING = ("auto", "on", "off")
# As the model card of Qwen3.5 gives them. "model" is what the checkpoint's own files say.
PRESETS: Mapping[str, Mapping[str, float]] = {
    "model": {},
    "thinking": {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "presence_penalty": 1.5},
    "precise": {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "presence_penalty": 0.0},
    "not-thinking": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5},
}
THINKS = {"thinking": "on", "precise": "on", "not-thinking": "off"}
HEADER = """\
# Settings of qwen35-chat. What is not here has its default; changes apply at once.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be chosen; each name is a key of the file.

    Attributes:
        system: the system prompt; "" for none.
        thinking: "auto" leaves it to the model.
        preset: one of `PRESETS`.
        sampling: single values over the preset's.
        max_tokens: of a reply; 0 for whatever the context leaves.
        context: tokens that the list of models reckons memory for.
        thinking_view: how the thinking of replies is shown.
        folders: where models are looked for, besides the download cache.
        keys: command to its keys, separated by commas; "" for no key.
    """

    model: str = "demo"
    system: str = ""
    thinking: str = "auto"
    preset: str = "model"
    max_tokens: int = 0
    context: int = 32_768
    theme: str = "dark"
    thinking_view: str = "collapsed"
    folders: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def configure(self, seed: int | None = None) -> Configure:
        """The same for an engine."""
        thinking = {"on": True, "off": False}.get(self.thinking)
        return Configure(
            system=self.system or None,
            thinking=thinking,
            max_tokens=self.max_tokens or None,
            seed=seed,
            sampling={**PRESETS[self.preset], **self.sampling},
        )


def settings_file() -> Path:
    """Where the settings are: $QWEN35_HOME, or the platform's folder for settings."""
    if named := os.environ.get("QWEN35_HOME"):
        return Path(named).expanduser() / FILE
    from platformdirs import user_config_path  # a few ms that a named folder need not cost

    return user_config_path("qwen35-chat") / FILE


def _one_of(names: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, "one of " + ", ".join(f'"{name}"' for name in names)


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"a whole number of {least} or more",
    )


def _number(ok: Callable[[float], bool], want: str) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and ok(float(v)),
        want,
    )


_TEXT = (lambda value: isinstance(value, str), "text in quotes")
_NAME = (lambda value: isinstance(value, str) and bool(value.strip()), "a name in quotes")
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "model": _NAME,
    "system": _TEXT,
    "thinking": _one_of(THINKING),
    "preset": _one_of(tuple(PRESETS)),
    "max_tokens": _whole(0),
    "context": _whole(1),
    "theme": _one_of(THEMES),
    "thinking_view": _one_of(VIEWS),
    "folders": (
        lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
        'a list of folders, such as ["~/models"]',
    ),
}
_SAMPLING: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": _number(lambda x: 0 <= x < 100, "a number from 0 to 100"),
    "top_p": _number(lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
    "top_k": _whole(0),
    "min_p": _number(lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "presence_penalty": _number(lambda x: -2 <= x <= 2, "a number from -2 to 2"),
    "repetition_penalty": _number(lambda x: 0 < x <= 10, "a number above 0 and at most 10"),
}


def parse(text: str, file: Path, commands: frozenset[str] | None = None) -> Settings:
    """The settings in a file's text.

    Args:
        commands: names that `[keys]` may have; None lets any pass.

    Raises:
        Qwen35Error: with the file, the line and the field.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Qwen35Error(f"{file}: {error}: correct it, or remove the file") from None
    tables: Mapping[str, Mapping[str, Any]] = {"sampling": _SAMPLING, "keys": {}}
    chosen: dict[str, Any] = {}
    for name, value in data.items():
        if name in tables:
            if not isinstance(value, dict):
                raise _wrong(text, file, "", name, f"must be a table, [{name}]")
            for key, item in value.items():
                _check_item(text, file, name, key, item, commands)
            chosen[name] = value
        elif name not in _FIELDS:
            known = ", ".join([*_FIELDS, *tables])
            raise _wrong(text, file, "", name, f"is not a setting; these are: {known}")
        else:
            ok, want = _FIELDS[name]
            if not ok(value):
                raise _wrong(text, file, "", name, f"must be {want}")
            chosen[name] = tuple(value) if isinstance(value, list) else value
    return Settings(**chosen)


def _check_item(
    text: str, file: Path, table: str, key: str, value: Any, commands: frozenset[str] | None
) -> None:
    if table == "sampling":
        if key not in _SAMPLING:
            raise _wrong(text, file, table, key, f"must be one of {', '.join(_SAMPLING)}")
        ok, want = _SAMPLING[key]
        if not ok(value):
            raise _wrong(text, file, table, key, f"must be {want}")
        return
    if commands is not None and key not in commands:
        raise _wrong(text, file, table, key, "is no command; F1 in the chat lists them")
    if not isinstance(value, str):
        raise _wrong(text, file, table, key, 'must be keys in quotes, such as "ctrl+n"')
    if any(key.strip().startswith("alt+") for key in value.split(",")):
        raise _wrong(text, file, table, key, "must not need Alt, which many terminals do not send")


def _wrong(text: str, file: Path, table: str, key: str, what: str) -> Qwen35Error:
    place = _extent(text.splitlines(), table, key)
    line = f", line {place[0] + 1}" if place else ""
    name = f"{table}.{key}" if table else key
    return Qwen35Error(f"{file}{line}: {name} {what}")


def _extent(lines: list[str], table: str, key: str) -> tuple[int, int] | None:
    """The lines [start, end) that give `key` of `table` its value."""
    current = ""
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        if header := re.fullmatch(r"\[\s*([^\[\]]+?)\s*\]\s*(#.*)?", line):
            current = header.group(1).strip("\"'")
            if table == "" and current == key:
                return at, at + 1
        elif line and not line.startswith("#"):
            end = _value_end(lines, at)
            name = line.partition("=")[0].strip().strip("\"'")
            if name == key and current == table:
                return at, end
            at = end
            continue
        at += 1
    return None


def _value_end(lines: list[str], start: int) -> int:
    """Where the value that begins in line `start` ends: it may go over several lines."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return start + 1


def with_value(text: str, name: str, value: object) -> str:
    """A file's text with one value changed; everything else stays as it was written.

    Args:
        name: a setting, or `table.key`.
        value: None takes the line away, so that the default holds.
    """
    table, _, key = name.rpartition(".")
    lines = text.splitlines()
    written = [] if value is None else [f"{key} = {_toml(value)}"]
    if place := _extent(lines, table, key):
        lines[place[0] : place[1]] = written
    elif written:
        at = _table_end(lines, table)
        if at is None:
            lines += ["", f"[{table}]"]
            at = len(lines)
        lines[at:at] = written
    return "\n".join(lines).strip("\n") + "\n"


def _table_end(lines: list[str], table: str) -> int | None:
    """Where a line can be added to a table; None if there is no such table."""
    headers = [n for n, line in enumerate(lines) if line.strip().startswith("[")]
    if table == "":
        end = headers[0] if headers else len(lines)
    else:
        named = [n for n in headers if lines[n].strip().strip("[] ").startswith(table)]
        if not named:
            return None
        end = next((n for n in headers if n > named[0]), len(lines))
    while end > 0 and not lines[end - 1].strip():
        end -= 1
    return end


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


class SettingsFile:
    """The settings, as they are in the file now.

    Args:
        file: None keeps everything in memory.
        changes: what the command line says; it holds until the end and is not written.
        commands: as for `parse`.

    Attributes:
        settings: the last ones that were right.
    """

    def __init__(
        self,
        file: Path | None,
        changes: Mapping[str, Any] | None = None,
        commands: frozenset[str] | None = None,
    ):
        self.file = file
        self._changes = dict(changes or {})
        self._commands = commands
        self._seen: tuple[int, int] | None = None
        self._memory = HEADER
        self.settings = self._with_changes(Settings())

    def load(self) -> Settings:
        """Read the file.

        Raises:
            Qwen35Error: something in it is wrong; the settings stay as they were.
        """
        self._seen = self._stamp()
        text = self._text()
        self.settings = self._with_changes(parse(text, self.file or Path(FILE), self._commands))
        return self.settings

    def changed(self) -> bool:
        """Whether the file is another than the one that was read."""
        return self.file is not None and self._stamp() != self._seen

    def set(self, name: str, value: object) -> Settings:
        """Change one value in the file. `name`, `value`: as for `with_value`.

        Raises:
            Qwen35Error: the value is refused, or the file cannot be written; it is as before then.
        """
        text = with_value(self._text() or HEADER, name, value)
        file = self.file or Path(FILE)
        parsed = parse(text, file, self._commands)
        if self.file is None:
            self._memory = text
        else:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(self.file)
            except OSError as error:
                raise Qwen35Error(
                    f"{self.file} cannot be written ({error.strerror}): the setting holds "
                    "nowhere; make the folder writable"
                ) from None
        self._changes.pop(name, None)
        self._seen = self._stamp()
        self.settings = self._with_changes(parsed)
        return self.settings

    def _with_changes(self, settings: Settings) -> Settings:
        values = {f.name: getattr(settings, f.name) for f in fields(Settings)}
        values.update({k: v for k, v in self._changes.items() if k != "sampling"})
        if sampling := self._changes.get("sampling"):
            values["sampling"] = {**settings.sampling, **sampling}
        return Settings(**values)

    def _text(self) -> str:
        if self.file is None:
            return self._memory
        try:
            return self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Qwen35Error(f"{self.file} cannot be read: {reason}") from None

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self.file.stat() if self.file else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None


def typed_value(name: str, text: str) -> object:
    """What a user wrote for a setting, as the file has it; None for the default.

    Raises:
        Qwen35Error: it should be a number and is none.
    """
    text = text.strip()
    if not text and name != "system":
        return None
    if name in ("max_tokens", "context", "sampling.top_k"):
        kind, want = int, "a whole number"
    elif name.startswith("sampling."):
        kind, want = float, "a number"
    else:
        if name == "folders":
            return [part.strip() for part in text.split(",") if part.strip()]
        return text
    try:
        return kind(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise Qwen35Error(f"{name} must be {want}, and {text!r} is none") from None
