"""The commands of vim's normal and visual mode, from the keys that were pressed."""

from collections.abc import Sequence
from dataclasses import dataclass

MOTIONS = frozenset("hjkl0^$webG;,")
OPERATORS = frozenset("dcy")
SINGLE = frozenset("iaIAoOxXsSDCYpPuvV.")  # complete by themselves
IN_VISUAL = frozenset("dxcsyvVo")
DIGITS = tuple("0123456789")
MOST = 9999  # of a count


@dataclass(frozen=True, slots=True)
class VimCommand:
    """One command.

    Attributes:
        name: a key of `SINGLE`, `MOTIONS` or `IN_VISUAL`, an operator, "gg", "r", "ctrl+r", one of
            "fFtT", "iw" or "aw".
        motion: of an operator: a motion, "iw", "aw", or the operator again for whole lines.
        sign: that f, F, t, T or r is followed by.
        count: None if none was typed.
    """

    name: str
    motion: str = ""
    sign: str = ""
    count: int | None = None


def parse(keys: Sequence[str], *, visual: bool) -> VimCommand | bool:
    """The command of some keys; True if there may be more of it, False if it is none."""
    count, at = _count(keys, 0)
    if at == len(keys):
        return True
    key, rest = keys[at], keys[at + 1 :]
    if key in OPERATORS and not visual:
        more, behind = _count(rest, 0)
        both = None if count is None and more is None else min((count or 1) * (more or 1), MOST)
        return _operator(key, rest[behind:], both)
    if key in (IN_VISUAL if visual else SINGLE) or key == "ctrl+r":
        return VimCommand(key, count=count)
    if not visual and key == "r":
        return True if not rest else len(rest[0]) == 1 and VimCommand("r", "", rest[0], count)
    if key in "ia" and visual:
        return _object(key, rest, count, "")
    return _motion(key, rest, count, "")


def _operator(name: str, keys: Sequence[str], count: int | None) -> VimCommand | bool:
    if not keys:
        return True
    key, rest = keys[0], keys[1:]
    if key == name:
        return VimCommand(name, key, "", count)
    return _object(key, rest, count, name) if key in "ia" else _motion(key, rest, count, name)


def _object(key: str, rest: Sequence[str], count: int | None, operator: str) -> VimCommand | bool:
    if not rest:
        return True
    return rest[0] == "w" and _command(f"{key}w", "", count, operator)


def _motion(key: str, rest: Sequence[str], count: int | None, operator: str) -> VimCommand | bool:
    if key in MOTIONS:
        return _command(key, "", count, operator)
    if key in ("g", "f", "F", "t", "T"):
        if not rest:
            return True
        if key == "g":
            return rest[0] == "g" and _command("gg", "", count, operator)
        return len(rest[0]) == 1 and _command(key, rest[0], count, operator)
    return False


def _command(motion: str, sign: str, count: int | None, operator: str) -> VimCommand:
    return VimCommand(operator or motion, motion if operator else "", sign, count)


def _count(keys: Sequence[str], at: int) -> tuple[int | None, int]:
    """A number at `at`, and where it ends. 0 alone is a motion."""
    digits = ""
    while at < len(keys) and keys[at] in DIGITS and (digits or keys[at] != "0"):
        digits += keys[at]
        at += 1
    return (min(int(digits), MOST) if digits else None), at
