"""Connections to the library's SQLite file."""

import os
import sqlite3
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from qwen35_mlx.library.checksums import register
from qwen35_mlx.text.folding import folded

# The longest wait for another window's transaction, which should take milliseconds.
BUSY_SECONDS = 30.0
# "immutable" reads a file without its log, on a disk where neither can change.
Access = Literal["rw", "ro", "immutable"]


def connect(
    file: Path, access: Access = "rw", *, busy_seconds: float = BUSY_SECONDS
) -> sqlite3.Connection:
    """A connection in autocommit mode, for one thread at a time. The file is never created.

    Closing a connection that only reads leaves the log as it is.
    """
    db = open_file(file, access, busy_seconds)
    try:
        if access == "rw":
            configure(db)
    except BaseException:
        db.close()
        raise
    return db


def open_file(file: Path, access: Access, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection that has not read anything yet."""
    options = "mode=ro&immutable=1" if access == "immutable" else f"mode={access}"
    db = sqlite3.connect(
        f"file:{quote(os.fsencode(file))}?{options}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    # Damaged text is found by its checksum, and must not hide the rows beside it.
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    register(db)
    db.create_function("folded", 1, _folded, deterministic=True)
    return db


def _folded(text: bytes) -> str:
    """The SQL function `folded`, of text as bytes."""
    return folded(text.decode("utf-8", "replace"))


def configure(db: sqlite3.Connection) -> None:
    """Set what a connection that writes needs."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA foreign_keys = ON")
    # On macOS a plain fsync does not flush the drive's cache. No effect elsewhere.
    db.execute("PRAGMA fullfsync = ON")
    # Overwrites the text of deleted conversations, which would remain in free pages.
    db.execute("PRAGMA secure_delete = ON")
    # The triggers of the search index call `folded`. Some builds of SQLite forbid that by default.
    db.execute("PRAGMA trusted_schema = ON")
