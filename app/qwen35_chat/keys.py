"""Names of keys, as people write them and as Textual does. Imports no Textual."""

import re
from collections.abc import Mapping

_SHOWN: Mapping[str, str] = {
    "escape": "Esc", "pageup": "Page Up", "pagedown": "Page Down", "enter": "Enter",
    "space": "Space", "tab": "Tab", "left": "Left", "right": "Right", "up": "Up", "down": "Down",
    "home": "Home", "end": "End", "insert": "Insert", "delete": "Delete",
    "backspace": "Backspace", "ctrl": "Ctrl", "shift": "Shift",
    "underscore": "_",
}  # fmt: skip
_ALIASES: Mapping[str, str] = {
    "esc": "escape", "return": "enter", "del": "delete", "ins": "insert", "control": "ctrl",
    "pgup": "pageup", "pgdn": "pagedown", "pgdown": "pagedown", "_": "underscore",
}  # fmt: skip
# A terminal sends the same for both.
SAME: Mapping[str, str] = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace"}
# What stands for keys in texts for people.
SHOWN_NAMES = tuple(name for name in _SHOWN.values() if name not in ("Ctrl", "Shift", "_"))
_TYPED = ("underscore",)  # names of keys that type a character
_FUNCTION = re.compile(r"f([1-9]|1\d|2[0-4])")


def key_names(keys: str) -> list[str]:
    """Keys in Textual's names: "Ctrl+S, Page Up" -> ["ctrl+s", "pageup"]."""
    return [_name(key) for key in keys.split(",") if key.strip()]


def _name(key: str) -> str:
    parts = [part.strip() for part in key.strip().split("+")]
    if len(parts) == 1 and len(parts[0]) == 1:
        return parts[0]  # the case of a single letter counts
    parts = ["".join(part.lower().replace("_", " ").split()) or part for part in parts]
    *modifiers, last = [_ALIASES.get(part, part) for part in parts]
    if modifiers == ["shift"] and len(last) == 1:
        return last.upper()
    return "+".join([*sorted(modifiers), last])


def key_problem(key: str, *, typing: bool) -> str:
    """Why a key cannot call a command; "" if it can.

    Args:
        key: in Textual's name.
        typing: whether text is written where the key acts.
    """
    *modifiers, last = key.split("+")
    if {"alt", "option", "opt", "meta"} & set(modifiers):
        return "must not need Alt, which many terminals do not send"
    named = (last in _SHOWN and last not in _TYPED) or _FUNCTION.fullmatch(last)
    if not set(modifiers) <= {"ctrl", "shift"} or not (
        named or last in _TYPED or (len(last) == 1 and last.isascii() and last.isalnum())
    ):
        return f'has {key!r}, which is no key: write it like "ctrl+n", "f5" or "pageup"'
    if key in SAME:
        return f"has {shown_keys(key)}, which terminals cannot tell from {shown_keys(SAME[key])}"
    if typing and not named and "ctrl" not in modifiers:
        return f"has {key!r}, which could not be typed any more"
    return ""


def shown_keys(keys: str) -> str:
    """Keys for people: "ctrl+s,f2" -> "Ctrl+S, F2"."""

    def one(key: str) -> str:
        parts = key.split("+")
        if len(parts) == 1 and len(key) == 1:
            return key
        return "+".join(_SHOWN.get(part, part.upper()) for part in parts)

    return ", ".join(one(key) for key in key_names(keys))
