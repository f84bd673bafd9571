"""The user's settings: their names, defaults and valid values."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qwen35_chat.keys import key_names, key_problem
from qwen35_chat.options import template_value
from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling_parameters import LIMITS, NO_LIMIT, RANGES, Range
from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.user_paths import shown, user_path

FILE_NAME = "settings.toml"
MAX_NUMBER = 1_000_000_000  # catches slips in settings that have no bound of their own
# "auto" is dark or light as the terminal is, "ansi" takes its colours; then come Textual's own.
THEMES = (
    "auto", "dark", "light", "ansi",
    "atom-one-dark", "catppuccin-frappe", "catppuccin-macchiato", "catppuccin-mocha", "dracula",
    "flexoki", "gruvbox", "monokai", "nord", "rose-pine", "rose-pine-moon", "solarized-dark",
    "textual-dark", "tokyo-night",
    "atom-one-light", "catppuccin-latte", "rose-pine-dawn", "solarized-light", "textual-light",
)  # fmt: skip
VIEWS = ("hidden", "collapsed", "open")
THINKING = ("auto", "on", "off")
SWITCH = ("on", "off")
# "auto" is "osc9" in terminals that are known to take it, and nothing in others.
NOTIFICATIONS = ("auto", "osc9", "bell", "off")
# A number is the drafts of the MTP head in a pass.
MTP = ("auto", "off", *"123456")
# The sampling values of the Qwen3.5 model card. "model" uses the checkpoint's own defaults.
PRESETS: Mapping[str, Mapping[str, float]] = {
    "model": {},
    "thinking": {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "presence_penalty": 1.5},
    "precise": {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "presence_penalty": 0.0},
    "not-thinking": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5},
}
# The `thinking` setting that each preset is meant for.
PRESET_THINKING = {"thinking": "on", "precise": "on", "not-thinking": "off"}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Each attribute is a key of the file.

    Attributes:
        model: a folder, "org/repo" on the Hub, or "demo".
        system: the system prompt; "" for none.
        thinking: one of `THINKING`; "auto" leaves it to the model.
        preset: one of `PRESETS`.
        thinking_budget: tokens of thinking, then the model is made to answer; -1 for no limit.
        repetition_guard: one of `SWITCH`, whether a reply that repeats itself without end is ended.
        max_tokens: limit of a reply; -1 for whatever the context leaves.
        context: tokens for which the list of models estimates memory.
        mtp: one of `MTP`, how many tokens are guessed and verified together.
        theme: one of `THEMES`.
        thinking_view: one of `VIEWS`, how the thinking in replies is shown.
        copy_on_select: one of `SWITCH`, whether text is copied as soon as it is selected.
        notification: one of `NOTIFICATIONS`, how the end of a long reply is told in other windows.
        shell_commands: one of `SWITCH`, whether `!command` may be run.
        vim: one of `SWITCH`, whether the composer has the keys of vim.
        auto_compact: one of `SWITCH`, whether the oldest turns are summed up when room gets short.
        folders: searched for models, besides the download cache.
        tools_folder: that the built-in tools let the model read; "" for no such tools.
        sampling: values that override the preset's; the names are those of `RANGES`.
        template_arguments: variables of the model's chat template.
        keys: for each command, its keys separated by commas; "" for no key.
    """

    model: str = demo.NAME
    system: str = ""
    thinking: str = "auto"
    preset: str = "model"
    thinking_budget: int = NO_LIMIT
    repetition_guard: str = "on"
    max_tokens: int = NO_LIMIT
    context: int = 32_768
    mtp: str = "auto"
    theme: str = "auto"
    thinking_view: str = "collapsed"
    copy_on_select: str = "on"
    notification: str = "auto"
    shell_commands: str = "off"
    vim: str = "off"
    auto_compact: str = "off"
    folders: tuple[str, ...] = ()
    tools_folder: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def chat_settings(self, seed: int | None = None) -> ChatSettings:
        """The part of the settings that the engine uses."""
        thinking = {"on": True, "off": False}.get(self.thinking)
        return ChatSettings(
            system=self.system or None,
            thinking=thinking,
            max_tokens=_number_or_none(self.max_tokens),
            seed=seed,
            sampling={**PRESETS[self.preset], **self.sampling},
            template_arguments=self.template_arguments,
            thinking_budget=_number_or_none(self.thinking_budget),
            repetition_guard=None if self.repetition_guard == "on" else False,
        )


def _number_or_none(limit: int) -> int | None:
    return None if limit == NO_LIMIT else limit


def settings_file() -> Path:
    """Path of the settings file: in $QWEN35_HOME, or the platform's folder for settings.

    Raises:
        Qwen35Error: $QWEN35_HOME is no path.
    """
    if named := os.environ.get("QWEN35_HOME"):
        return user_path(named) / FILE_NAME
    from platformdirs import user_config_path  # takes a few ms, which $QWEN35_HOME saves

    return user_config_path("qwen35-chat") / FILE_NAME


# A predicate, and the description of what it accepts.
Check = tuple[Callable[[Any], bool], str]


def _one_of(names: tuple[str, ...]) -> Check:
    return lambda value: value in names, "one of " + ", ".join(f'"{name}"' for name in names)


def _number_in(bounds: Range) -> Check:
    types = int if bounds.whole else int | float

    def accepts(value: Any) -> bool:
        # MAX_NUMBER first: an integer of any length can be compared, but not made a float.
        return (
            isinstance(value, types)
            and not isinstance(value, bool)
            and abs(value) <= MAX_NUMBER
            and bounds.contains(value)
        )

    return accepts, str(bounds)


_CHECKS: Mapping[str, Check] = {
    "model": (lambda value: isinstance(value, str) and bool(value.strip()), "a name in quotes"),
    "system": (lambda value: isinstance(value, str), "text in quotes"),
    "thinking": _one_of(THINKING),
    "preset": _one_of(tuple(PRESETS)),
    "thinking_budget": _number_in(LIMITS["thinking_budget"]),
    "repetition_guard": _one_of(SWITCH),
    "max_tokens": _number_in(LIMITS["max_tokens"]),
    "context": (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= MAX_NUMBER,
        f"a whole number from 1 to {MAX_NUMBER:,}",
    ),
    "mtp": _one_of(MTP),
    "theme": (
        lambda value: value in THEMES,
        'a theme, such as "auto", "dark", "light" or "ansi"; /theme in the chat lists them all',
    ),
    "thinking_view": _one_of(VIEWS),
    "copy_on_select": _one_of(SWITCH),
    "notification": _one_of(NOTIFICATIONS),
    "shell_commands": _one_of(SWITCH),
    "vim": _one_of(SWITCH),
    "auto_compact": _one_of(SWITCH),
    "folders": (
        lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
        'a list of folders, such as ["~/models"]',
    ),
    "tools_folder": (lambda value: isinstance(value, str), "a folder in quotes"),
}
_SAMPLING_CHECKS: Mapping[str, Check] = {
    name: _number_in(bounds) for name, bounds in RANGES.items()
}
FIELDS, SAMPLING = tuple(_CHECKS), tuple(_SAMPLING_CHECKS)
TABLES = ("sampling", "template_arguments", "keys")


def _is_json(value: object) -> bool:
    """Whether a value of TOML is one of JSON: dates are not."""
    match value:
        case dict():
            return all(map(_is_json, value.values()))
        case list():
            return all(map(_is_json, value))
        case float():
            return math.isfinite(value)
        case _:
            return isinstance(value, str | int)


def setting_names(settings: Settings, template_arguments: Sequence[str] = ()) -> list[str]:
    """The names of all settings that can be shown, those of `[keys]` left out.

    Args:
        template_arguments: that the model's template reads. `thinking` is one of them.
    """
    read = [name for name in template_arguments if name != "enable_thinking"]
    names = dict.fromkeys([*read, *settings.template_arguments])
    return [
        *FIELDS,
        *(f"sampling.{name}" for name in SAMPLING),
        *(f"template_arguments.{name}" for name in names),
    ]


def setting_problem(name: str, value: object, commands: Mapping[str, str] | None = None) -> str:
    """Why a setting cannot have this value; "" if it can.

    Args:
        name: a setting, or `table.key`.
        commands: the names that `[keys]` may contain, and the scope of each command; None accepts
            any name.
    """
    table, _, key = name.partition(".")
    if table == "keys" and key:
        return _keys_problem(key, value, commands)
    if table == "sampling" and key:
        check = _SAMPLING_CHECKS.get(key)
        known = ", ".join(_SAMPLING_CHECKS)
    elif table == "template_arguments" and key:
        check, known = (_is_json, "text, a number, true or false, a list or a table"), ""
    elif name in TABLES:
        return "" if isinstance(value, dict) else f"must be a table, [{name}]"
    else:
        check = _CHECKS.get(name)
        known = ", ".join([*_CHECKS, *TABLES])
    if check is None:
        return f"is not a setting; these are: {known}"
    accepts, description = check
    return "" if accepts(value) else f"must be {description}"


def _keys_problem(name: str, value: object, commands: Mapping[str, str] | None) -> str:
    if commands is not None and name not in commands:
        similar = get_close_matches(name, commands, 1)
        hint = f"; did you mean {similar[0]}?" if similar else ": docs/keys.md lists their names"
        return f"is no command{hint}"
    if not isinstance(value, str):
        return 'must be keys in quotes, such as "ctrl+n"'
    typing = commands is not None and commands[name] != "messages"
    problems = (key_problem(key, typing=typing) for key in key_names(value))
    return next((found for found in problems if found), "")


def parse_value(name: str, text: str) -> object:
    """The value of a setting as a user types it, in the type that the file has.

    Returns:
        None for the default.

    Raises:
        Qwen35Error: the setting is a number and the text is not, or a folder is no path.
    """
    text = text.strip()
    if not text and name != "system":
        return None
    if name == "folders":
        folders = [part.strip() for part in text.split(",") if part.strip()]
        for folder in folders:
            user_path(folder)
        return folders
    table, _, key = name.rpartition(".")
    if table == "template_arguments":
        return template_value(text)
    sampling = RANGES.get(key) if table == "sampling" else None
    if name in ("max_tokens", "context", "thinking_budget") or (sampling and sampling.whole):
        number, description = int, "a whole number"
    elif table == "sampling":
        number, description = float, "a number"
    else:
        return text
    try:
        return number(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise Qwen35Error(f"{name} must be {description}, and {shown(text)!r} is none") from None


def display_value(settings: Settings, name: str) -> str:
    """The effective value of a setting or `table.key`, for people; "" for none."""
    table, _, key = name.rpartition(".")
    if table == "template_arguments":
        value = settings.template_arguments.get(key)
        return value if isinstance(value, str) else "" if value is None else write_json(value)
    if table == "sampling":
        value = settings.sampling.get(key, PRESETS[settings.preset].get(key))
        return "" if value is None else f"{value:g}"
    value = settings.keys.get(key, "") if table == "keys" else getattr(settings, key)
    return ", ".join(value) if isinstance(value, tuple) else str(value)
