"""Paths as users write them: any word gives a path or a one-line error, never a traceback.

`pathlib` raises a dozen kinds of error on words that are no paths, in `expanduser`, `exists` and
`is_dir` as well.
"""

import errno
import stat
from collections.abc import Callable
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible

_LONGEST_SHOWN = 80  # characters of a word in an error


def user_path(word: str | Path) -> Path:
    """The path that a word means, with `~` and `~user` expanded. It need not exist.

    Raises:
        Qwen35Error: it cannot be a path here: there is no such user, a name is too long, it has a
            character that no path has, its links form a circle, or a folder on the way may not be
            searched.
    """
    text = str(word)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise Qwen35Error(
            f"{shown(text)}: there is no home folder {shown(user)} here: write the path in full"
        ) from None
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise Qwen35Error(f"{shown(text)}: {_reason(error)}") from None
    except ValueError:  # a NUL character, or a surrogate that no encoding has
        raise Qwen35Error(
            f"{shown(text)}: it has a character that no path can have: give another path"
        ) from None
    return path


def absolute_user_path(word: str | Path) -> Path:
    """As `user_path`, and absolute, for a path that is used for longer.

    Raises:
        Qwen35Error: as for `user_path`; or the path is relative and the current folder is gone.
    """
    path = user_path(word)
    try:
        return path.absolute()
    except OSError as error:
        raise Qwen35Error(
            f"{shown(str(word))}: the current folder cannot be used ({error.strerror}): "
            "change to another, or write the path in full"
        ) from None


def exists(path: Path) -> bool:
    """Whether there is something; false if that cannot be found out."""
    return _has_mode(path, lambda _: True)


def is_dir(path: Path) -> bool:
    """Whether it is a folder; false if that cannot be found out."""
    return _has_mode(path, stat.S_ISDIR)


def is_file(path: Path) -> bool:
    """Whether it is a regular file; false if that cannot be found out."""
    return _has_mode(path, stat.S_ISREG)


def shown(word: str) -> str:
    """A user's word, for an error of one line: without line breaks, its middle left out if long."""
    line = " ".join(word.splitlines())
    if len(line) <= _LONGEST_SHOWN:
        return line
    half = _LONGEST_SHOWN // 2
    return f"{line[:half]} ... {line[-half:]}"


def short_path(path: Path) -> str:
    """A path for people, with ~ for the home folder."""
    home = Path.home()
    return visible(f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path))


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENAMETOOLONG:
            return "the name is too long for a path: give a shorter one"
        case errno.ELOOP:
            return "its symbolic links form a circle: give another path"
        case errno.EACCES | errno.EPERM:
            return "it may not be read: change its permissions or give another path"
        case _:
            return f"it cannot be used ({error.strerror}): give another path"


def _has_mode(path: Path, wanted: Callable[[int], bool]) -> bool:
    try:
        return wanted(path.stat().st_mode)
    except (OSError, ValueError):
        return False
