"""Keys that a terminal reports as numbers: the kitty keyboard protocol, and modifyOtherKeys.

https://sw.kovidgoyal.net/kitty/keyboard-protocol/ and
https://invisible-island.net/xterm/modified-keys.html. The keys have Textual's names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qwen35_chat import keys
from qwen35_chat.textual_private import functional_key, key_name, legacy_keys

# Keys that would be ambiguous (1), each with the key of an English keyboard (4): so Ctrl+C is known
# on a Cyrillic one. Text arrives as text. Textual requests all keys as numbers, with their text
# (25), under which iTerm2 and Ghostty before 1.3 lose what an input method has composed.
KITTY_FLAGS = 0b101
# $TERM_PROGRAM of terminals that lose single characters of input methods under any flags:
# https://github.com/xtermjs/xterm.js/issues/6112, https://github.com/wezterm/wezterm/pull/7915
LOSES_TEXT = ("vscode", "WezTerm")
MODIFY_OTHER_KEYS, USUAL_KEYS = "\x1b[>4;1m", "\x1b[>4m"

# number:shifted:base ; modifiers:event ; text, each part as it is needed
_KEY = re.compile(r"\x1b\[([0-9:]*)(?:;([0-9:]*))?(?:;([0-9:]*))?([u~A-HPQRS])")
_MODIFIERS = ("shift", "alt", "ctrl", "super", "hyper", "meta")
_RELEASED = 3
_OTHER_KEY = 27  # the number of all keys of modifyOtherKeys
# Keys that mean the same: where keys are not reported as numbers, most have the same bytes.
_SAME: Mapping[str, str] = {
    **keys.SAME,
    "ctrl+left_square_bracket": "escape",
    "ctrl+slash": "ctrl+underscore",
    "ctrl+space": "ctrl+@",
    "alt+enter": "shift+enter",  # which many terminals send as Enter
    "alt+b": "ctrl+left",
    "alt+f": "ctrl+right",
}
_CHARACTERS: Mapping[str, str] = {"enter": "\r", "tab": "\t", "backspace": "\x7f", "escape": "\x1b"}
# What stands on the keys of an English keyboard, for terminals that do not say it.
_LAYOUTS = (
    ("йцукенгшщзфывапролдячсмить", "qwertyuiopasdfghjklzxcvbnm"),
    ("іў", "so"),
    ("ςερτυθιοπασδφγηξκλζχψωβνμ", "wertyuiopasdfghjklzxcvbnm"),
    ("קראטוןםפשדגכעיחלךזסבהנמצ", "ertyuiopasdfghjklzxcvbnm"),
    ("ضصثقفغعهخحشسيبلاتنمئءؤرىة", "qwertyuiopasdfghjklzxcvnm"),
    ("ๆไำพะัีรนยฟหกดเ้่าสผปแอิืท", "qwertyuiopasdfghjklzxcvbnm"),
    ("ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔㅁㄴㅇㄹㅎㅗㅓㅏㅣㅋㅌㅊㅍㅠㅜㅡ", "qwertyuiopasdfghjklzxcvbnm"),
)
_ENGLISH = {theirs: ours for layout in _LAYOUTS for theirs, ours in zip(*layout, strict=True)}


@dataclass(frozen=True, slots=True)
class KeyPress:
    """A key that was pressed.

    Attributes:
        key: its name, with modifiers.
        character: what it types or stands for; None if it only calls something.
    """

    key: str
    character: str | None


def keyboard_mode(environment: Mapping[str, str]) -> str:
    """What makes the terminal report keys that it would send as others, such as Shift+Enter.

    It replaces the flags that Textual has set.
    """
    lost = environment.get("TERM_PROGRAM", "") in LOSES_TEXT
    flags = f"\x1b[={0 if lost else KITTY_FLAGS}u"
    # Where the kitty protocol is not known. Others, which know both, have no use for it.
    older = environment.get("TMUX") or environment.get("XTERM_VERSION")
    return flags + (MODIFY_OTHER_KEYS if older else "")


def typed_key(character: str) -> KeyPress:
    """The key that types a character."""
    return KeyPress(key_name(character), character)


def alt_key(character: str) -> KeyPress:
    """Alt and the key that types or sends an ASCII character."""
    if names := legacy_keys(character):
        return _named(names[0], ["alt"])
    return _of_character(character, "", "", ["alt", *(["shift"] if character.isupper() else [])])


def key_presses(sequence: str) -> list[KeyPress] | None:
    """The keys that a sequence reports: none for the release of one; None if it reports no key."""
    if (match := _KEY.fullmatch(sequence)) is None:
        return None
    numbers, modifiers, third = (_numbers(part) for part in match.groups("")[:3])
    end = match[4]
    if not (number := numbers[0]):
        number = 0 if end == "u" else 1
    if end == "~" and number == _OTHER_KEY and third[0]:
        numbers, number, third, end = [third[0]], third[0], [0], "u"
    if modifiers[1:2] == [_RELEASED]:
        return []
    bits = max((modifiers[0] or 1) - 1, 0)
    held = [name for bit, name in enumerate(_MODIFIERS) if bits >> bit & 1]
    text = "".join(map(_character, third))
    shortcut = {"ctrl", "super", "hyper", "meta"} & {*held} and "alt" not in held
    if text and not shortcut:
        return [typed_key(character) for character in text]
    if name := functional_key(f"{number}{end}"):
        return [_named(name, held)]
    if end != "u" or not (character := _character(number)):
        return []
    shifted, base = (_character(n) for n in (*numbers[1:3], 0, 0)[:2])
    return [_of_character(character, shifted, base, held)]


def _of_character(character: str, shifted: str, base: str, held: list[str]) -> KeyPress:
    """The key of a character; with modifiers, as an English keyboard would have it.

    Args:
        shifted: what it types with Shift; base: what it would be on an English keyboard; "" if the
            terminal does not say so.
    """
    if not {*held} - {"shift"}:
        typed = (shifted or character.upper()) if held and character.islower() else character
        typed = shifted if held and shifted else typed
        return typed_key(typed) if len(typed) == 1 else typed_key(character)
    if not character.isascii():
        lower = character.lower()
        character = (base if base.isascii() else "") or _ENGLISH.get(lower, lower)
    elif not character.isalpha():
        character = shifted if "shift" in held and shifted.isascii() and shifted else character
        held = [name for name in held if name != "shift"]
    return _named(key_name(character.lower()), held)


def _named(name: str, held: list[str]) -> KeyPress:
    key = "+".join([*sorted(held), name])
    key = _SAME.get(key, key)
    return KeyPress(key, _CHARACTERS.get(key))


def _numbers(part: str) -> list[int]:
    """Numbers between colons; 0 for what is missing or too large to mean anything."""
    return [int(n) if n and len(n) <= 7 else 0 for n in part.split(":")]


def _character(number: int) -> str:
    """The character with this number; "" if there is none, or it is a control character."""
    if number < 32 or 127 <= number < 160 or 0xD800 <= number <= 0xDFFF or number > 0x10FFFF:
        return ""
    return chr(number)
