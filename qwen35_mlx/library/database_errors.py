"""SQLite's errors as one-line errors of this project."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line


class DamagedError(sqlite3.DatabaseError):
    """A stored value cannot be decoded."""


@contextmanager
def translate_errors(file: Path) -> Generator[None]:
    """Turn SQLite errors into a `Qwen35Error`. Errors of Python's sqlite3 module itself pass."""
    try:
        yield
    except OverflowError:  # SQLite's integers have 64 bits
        raise Qwen35Error(f"{file} has nothing of that number: it is too large") from None
    except (sqlite3.Error, UnicodeDecodeError) as error:
        line = _explain(error, file)
        if line is None:
            raise
        raise Qwen35Error(line) from error


def _explain(error: Exception, file: Path) -> str | None:
    reason = one_line(error)  # SQLite quotes the schema
    if is_damage(error):
        return f"{file} is damaged ({reason}): {how_to_rescue(file)}"
    match _primary_code(error):
        case sqlite3.SQLITE_FULL:
            return f"the disk is full, so {file} did not change: make room and try again"
        case sqlite3.SQLITE_IOERR:
            return f"{file} cannot be read or written ({reason}): is the disk full, or gone?"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another window has kept {file} busy for too long: try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"{file} cannot be written ({reason}): set QWEN35_HOME to a folder of yours"
        case 0:
            return None
        case _:  # for example a damaged name in the schema
            return (
                f"{file} cannot be used ({reason}): if it is not damaged, please report this as an"
                " error of qwen35-mlx"
            )


def how_to_rescue(file: Path) -> str:
    """What to do with a library that is damaged and still at its place."""
    return (
        f"close every window, move {file.with_suffix('.*')} to another folder, and add what can be"
        f" read with: qwen35-chat --rescue FOLDER/{file.name}"
    )


def is_damage(error: Exception) -> bool:
    if _primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    # Python raises these itself for text that is not UTF-8, in a column or an error message.
    undecodable = isinstance(error, sqlite3.OperationalError) and not _primary_code(error)
    return undecodable or isinstance(error, DamagedError | UnicodeDecodeError)


def _primary_code(error: Exception) -> int:
    """SQLite's primary result code; 0 if the error has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
