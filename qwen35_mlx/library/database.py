"""The library's SQLite file: its tables, how it is opened, and what its errors mean.

The tables change by migrations, numbered by `PRAGMA user_version`. Each is one transaction with
its number in it: a process that is killed in the middle leaves the old version whole.
"""

import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.locks import locked

# How long to wait for another window's transaction; each takes milliseconds.
BUSY_SECONDS = 30.0
# "Qw35": so that another program's database is not taken for ours.
APPLICATION_ID = 0x51773335

# Ids are never used again (AUTOINCREMENT): lock files and model states are named after them. The
# keys over two columns keep a parent and a leaf within their own conversation.
_TABLES = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        model TEXT NOT NULL,
        settings TEXT NOT NULL,
        draft TEXT NOT NULL DEFAULT '',
        leaf INTEGER,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        deleted REAL,
        FOREIGN KEY (id, leaf) REFERENCES messages (conversation, id)
    ) STRICT
    """,
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        parent INTEGER,
        role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
        content TEXT NOT NULL,
        thinking TEXT NOT NULL,
        tool_calls TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('complete', 'partial', 'cancelled', 'failed')),
        finish_reason TEXT,
        error TEXT NOT NULL,
        model TEXT NOT NULL,
        prompt_tokens INTEGER,
        cached_tokens INTEGER,
        reply_tokens INTEGER,
        prefill_seconds REAL,
        decode_seconds REAL,
        peak_memory INTEGER,
        thinking_seconds REAL,
        created REAL NOT NULL,
        UNIQUE (conversation, id),
        FOREIGN KEY (conversation, parent) REFERENCES messages (conversation, id)
    ) STRICT
    """,
    "CREATE INDEX messages_by_parent ON messages (conversation, parent)",
    "CREATE INDEX conversations_by_time ON conversations (updated, id) WHERE deleted IS NULL",
    "CREATE TABLE drafts (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL) STRICT",
)
# Trigrams find any run of three characters, in scripts without spaces too; shorter ones are found
# by reading the text. The index holds no text of its own: it follows the table by triggers.
_SEARCH = (
    "CREATE VIRTUAL TABLE search USING fts5"
    " (content, thinking, content='messages', content_rowid='id', tokenize='trigram')",
    """
    CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
        INSERT INTO search (rowid, content, thinking) VALUES (new.id, new.content, new.thinking);
    END
    """,
    """
    CREATE TRIGGER message_removed AFTER DELETE ON messages BEGIN
        INSERT INTO search (search, rowid, content, thinking)
        VALUES ('delete', old.id, old.content, old.thinking);
    END
    """,
    """
    CREATE TRIGGER message_changed AFTER UPDATE OF content, thinking ON messages BEGIN
        INSERT INTO search (search, rowid, content, thinking)
        VALUES ('delete', old.id, old.content, old.thinking);
        INSERT INTO search (rowid, content, thinking) VALUES (new.id, new.content, new.thinking);
    END
    """,
    "INSERT INTO search (search) VALUES ('rebuild')",
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_TABLES, _SEARCH)


def prepare(file: Path) -> None:
    """Make the database, or bring it to this version. One process at a time does this.

    Raises:
        Qwen35Error: written by a newer version, another program's, not readable or writable, or
            damaged. A damaged file is put aside, together with its log.
    """
    with locked(file.with_suffix(".opening"), BUSY_SECONDS):
        try:
            # SQLite would make it readable for all; its log files take over the permissions.
            # One that exists is not opened here: closing it would let go of all locks that other
            # connections of this process hold on it.
            if not file.exists():
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise Qwen35Error(
                f"{file} cannot be written ({error.strerror}): "
                "set QWEN35_HOME to a folder that you may write to"
            ) from None
        with translate_errors(file), closing(_open(file)) as db:
            try:
                _configure_connection(db)
                _migrate(db, file)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise
                # Before it is closed: with the last connection SQLite would remove the log.
                aside = _quarantine(file)
                raise Qwen35Error(
                    f"{file} is damaged ({error}) and was put aside as {aside.name}: start again"
                    f" for an empty library, or rescue it with: sqlite3 '{aside}' .recover"
                ) from None


def connect(file: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, to be used by one thread at a time."""
    db = _open(file)
    try:
        _configure_connection(db)
    except BaseException:
        db.close()
        raise
    return db


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _configure_connection(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA foreign_keys = ON")
    # macOS: an fsync that reaches the disk. No cost elsewhere.
    db.execute("PRAGMA fullfsync = ON")
    # A conversation that is deleted leaves no text in the file's free pages.
    db.execute("PRAGMA secure_delete = ON")


def _migrate(db: sqlite3.Connection, file: Path) -> None:
    version = _read_pragma(db, "user_version")
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and _read_pragma(db, "application_id") != APPLICATION_ID:
        raise Qwen35Error(
            f"{file} is another program's database: set QWEN35_HOME to another folder"
        )
    if version > len(MIGRATIONS):
        raise Qwen35Error(
            f"{file} was written by a newer version (its format is {version}, this one knows"
            f" {len(MIGRATIONS)}): update qwen35-mlx"
        )
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise


def _quarantine(file: Path) -> Path:
    """Rename the database and its log; both, since the log may hold what the file does not."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = file.with_name(f"{file.stem}-damaged-{stamp}{file.suffix}")
    number = 1
    while aside.exists():
        number += 1
        aside = file.with_name(f"{file.stem}-damaged-{stamp}-{number}{file.suffix}")
    for suffix in ("-wal", "-shm", ""):
        source = file.with_name(file.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


class DamagedError(sqlite3.DatabaseError):
    """What was read is not what was written."""


@contextmanager
def translate_errors(file: Path) -> Generator[None]:
    """SQLite's errors as lines for the user. Those of a misused Python module pass."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        line = _explain(error, file)
        if line is None:
            raise
        raise Qwen35Error(line) from error


def _explain(error: Exception, file: Path) -> str | None:
    if _is_damage(error):
        return (
            f"{file} is damaged ({error}): close every window, move it elsewhere, and rescue"
            " it there with sqlite3's .recover"
        )
    match _primary(error):
        case sqlite3.SQLITE_FULL:
            return f"the disk is full, so {file} did not change: make room and try again"
        case sqlite3.SQLITE_IOERR:
            return f"{file} cannot be read or written ({error}): is the disk full, or gone?"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another window has kept {file} busy for too long: try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"{file} cannot be written ({error}): set QWEN35_HOME to a folder of yours"
        case 0:
            return None
        case _:  # a name in the schema that is not what it was, for example
            return (
                f"{file} cannot be used ({error}): if it is not damaged, please report this as an"
                " error of qwen35-mlx"
            )


def _is_damage(error: Exception) -> bool:
    if _primary(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    # Python's own complaints about text that is not UTF-8: in a column, in an error's message.
    undecodable = isinstance(error, sqlite3.OperationalError) and not _primary(error)
    return undecodable or isinstance(error, DamagedError | UnicodeDecodeError)


def _primary(error: Exception) -> int:
    """The error's code, without the details in its higher bits; 0 where SQLite gave none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _read_pragma(db: sqlite3.Connection, pragma: str) -> int:
    return db.execute(f"PRAGMA {pragma}").fetchone()[0]
