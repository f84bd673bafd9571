"""What a user has chosen, in a TOML file that people can read and edit."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qwen35_chat.keys import key_names, key_problem, shown_keys
from qwen35_chat.toml_text import line_of
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings

FILE = "settings.toml"
LARGEST = 1_000_000_000  # whole number that makes any sense
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

    def chat_settings(self, seed: int | None = None) -> ChatSettings:
        """The same for an engine."""
        thinking = {"on": True, "off": False}.get(self.thinking)
        return ChatSettings(
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


Check = tuple[Callable[[Any], bool], str]


def _one_of(names: tuple[str, ...]) -> Check:
    return lambda value: value in names, "one of " + ", ".join(f'"{name}"' for name in names)


def _whole(least: int) -> Check:
    return (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= LARGEST,
        f"a whole number from {least} to {LARGEST:,}",
    )


def _number(ok: Callable[[float], bool], want: str) -> Check:
    # A whole number of any length can be compared, but not be made a float.
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and ok(v), want


_FIELDS: Mapping[str, Check] = {
    "model": (lambda value: isinstance(value, str) and bool(value.strip()), "a name in quotes"),
    "system": (lambda value: isinstance(value, str), "text in quotes"),
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
_SAMPLING: Mapping[str, Check] = {
    "temperature": _number(lambda x: 0 <= x < 100, "a number from 0 to below 100"),
    "top_p": _number(lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
    "top_k": _whole(0),
    "min_p": _number(lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "presence_penalty": _number(lambda x: -2 <= x <= 2, "a number from -2 to 2"),
    "repetition_penalty": _number(lambda x: 0 < x <= 10, "a number above 0 and at most 10"),
}
FIELDS, SAMPLING = tuple(_FIELDS), tuple(_SAMPLING)


def problem(name: str, value: object, commands: Mapping[str, str] | None = None) -> str:
    """Why a setting cannot have this value; "" if it can.

    Args:
        name: a setting, or `table.key`.
        commands: the names that `[keys]` may have, and where each command acts; None lets any
            pass.
    """
    table, _, key = name.partition(".")
    if table == "keys" and key:
        return _key_problem(key, value, commands)
    if table == "sampling" and key:
        check = _SAMPLING.get(key)
        known = ", ".join(_SAMPLING)
    elif name in ("sampling", "keys"):
        return "" if isinstance(value, dict) else f"must be a table, [{name}]"
    else:
        check = _FIELDS.get(name)
        known = ", ".join([*_FIELDS, "sampling", "keys"])
    if check is None:
        return f"is not a setting; these are: {known}"
    ok, want = check
    return "" if ok(value) else f"must be {want}"


def _key_problem(name: str, value: object, commands: Mapping[str, str] | None) -> str:
    if commands is not None and name not in commands:
        like = get_close_matches(name, commands, 1)
        meant = f"; did you mean {like[0]}?" if like else ": the README lists their names"
        return f"is no command{meant}"
    if not isinstance(value, str):
        return 'must be keys in quotes, such as "ctrl+n"'
    typing = commands is not None and commands[name] != "messages"
    problems = (key_problem(key, typing=typing) for key in key_names(value))
    return next((found for found in problems if found), "")


def parse(text: str, file: Path, commands: Mapping[str, str] | None = None) -> Settings:
    """The settings in a file's text.

    Args:
        commands: as for `problem`.

    Raises:
        Qwen35Error: with the file, the line and the field.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Qwen35Error(f"{file}: {error}: correct it, or remove the file") from None
    chosen: dict[str, Any] = {}
    for name, value in data.items():
        items = {f"{name}.{key}": item for key, item in value.items()} if _is_table(value) else {}
        for full, item in {name: value, **items}.items():
            if why := problem(full, item, commands):
                raise _wrong(text, file, full, why)
        chosen[name] = tuple(value) if isinstance(value, list) else value
    if commands is not None and (clash := _clash(chosen.get("keys", {}), commands)):
        raise _wrong(text, file, *clash)
    return Settings(**chosen)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _clash(keys: Mapping[str, str], commands: Mapping[str, str]) -> tuple[str, str] | None:
    """The first of [keys] that has a key of another in the same place, and what is wrong."""
    taken: dict[tuple[str, str], str] = {}
    for name, value in keys.items():
        for key in key_names(value):
            other = taken.setdefault((commands[name], key), name)
            if other != name:
                return f"keys.{name}", f"has {shown_keys(key)}, as keys.{other} does: change one"
    return None


def _wrong(text: str, file: Path, name: str, what: str) -> Qwen35Error:
    line = line_of(text, name)
    place = f", line {line}" if line else ""
    return Qwen35Error(f"{file}{place}: {name} {what}")


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


def shown_value(settings: Settings, name: str) -> str:
    """The value that holds for a setting or `sampling.key`, for people; "" for none."""
    table, _, key = name.rpartition(".")
    if table:
        value = settings.sampling.get(key, PRESETS[settings.preset].get(key))
        return "" if value is None else f"{value:g}"
    value = getattr(settings, key)
    return ", ".join(value) if isinstance(value, tuple) else str(value)
