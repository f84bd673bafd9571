"""The library's SQLite file: schema, migrations, connections, transactions and error messages.

The schema changes by migrations, numbered by `PRAGMA user_version`. Each migration is one
transaction that also sets the number: a process that is killed halfway leaves the old version.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.locks import locked
from qwen35_mlx.lifetime import Owner

# The longest wait for another window's transaction, which should take milliseconds.
BUSY_SECONDS = 30.0
# "Qw35", to recognise the database of another program.
APPLICATION_ID = 0x51773335

# Ids are never reused (AUTOINCREMENT), because lock files are named after them. The foreign keys
# over two columns keep a parent and a leaf within their own conversation.
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
# A trigram index finds any substring of three or more characters, also in scripts without spaces;
# shorter ones need a scan of the messages. It stores no text: triggers keep it equal to the table.
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


class Database:
    """The database of one window. Each thread gets its own connection.

    A read therefore never waits for the write of another thread.

    Attributes:
        file: the SQLite file.

    Raises:
        Qwen35Error: from every method: the disk is full, or the file is damaged or locked for too
            long. The database is then unchanged.
    """

    def __init__(self, file: Path):
        self.file = file
        prepare(file)
        self._local = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._connections_lock = threading.Lock()
        self._closed = False
        self._owner = Owner()

    def close(self) -> None:
        """Close all connections. No call may run in another thread or follow."""
        if not self._owner.in_process:
            return  # SQLite must not see the connections of a parent process
        with self._connections_lock:
            self._closed = True
            while self._connections:
                self._connections.pop().close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Generator[sqlite3.Connection]:
        """Several changes as one transaction; an exception rolls all of them back.

        It covers the calls of this thread. A nested transaction is part of the outer one. Keep it
        short, since other windows wait for it.

        Args:
            durable: whether to wait until the changes are on disk. False leaves the write to the
                operating system.
        """
        with translate_errors(self.file):
            db = self._connection()
            if db.in_transaction:
                yield db
                return
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                self._roll_back(db)
                raise

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Several reads of one consistent snapshot."""
        with translate_errors(self.file):
            db = self._connection()
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN")
            try:
                yield db
            finally:
                self._roll_back(db)

    def _connection(self) -> sqlite3.Connection:
        self._owner.check_process("this library")
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if self._closed or db is None:
            with self._connections_lock:
                if self._closed:
                    raise Qwen35Error(f"{self.file} was closed: open it again")
                db = self._local.db = connect(self.file)
                self._connections.add(db)
        return db

    def _roll_back(self, db: sqlite3.Connection) -> None:
        """Roll back, unless SQLite already has, as it does on a full disk."""
        with suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        if db.in_transaction:
            # The connection cannot be used: the next change would join this transaction.
            self._local.db = None
            self._connections.discard(db)
            db.close()


def prepare(file: Path) -> None:
    """Create the database or migrate it to this version. Only one process does so at a time.

    Raises:
        Qwen35Error: the file comes from a newer version or another program, cannot be read or
            written, or is damaged. A damaged file is renamed together with its log.
    """
    with locked(file.with_suffix(".opening"), BUSY_SECONDS):
        try:
            # SQLite would create it readable by everyone; its log files copy the permissions.
            # An existing file is not opened here: closing it would release all POSIX locks that
            # other connections of this process hold on it.
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
                # Rename before closing: SQLite removes the log with the last connection.
                aside = _quarantine(file)
                raise Qwen35Error(
                    f"{file} is damaged ({error}) and was put aside as {aside.name}: start again"
                    f" for an empty library, or rescue it with: sqlite3 '{aside}' .recover"
                ) from None


def connect(file: Path) -> sqlite3.Connection:
    """A new connection in autocommit mode, for one thread at a time."""
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
    # On macOS a plain fsync does not flush the drive's cache. No effect elsewhere.
    db.execute("PRAGMA fullfsync = ON")
    # Overwrites the text of deleted conversations, which would remain in free pages.
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
    """Rename the database and its log, which may hold changes that the file lacks."""
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
    """A stored value cannot be decoded."""


@contextmanager
def translate_errors(file: Path) -> Generator[None]:
    """Turn SQLite errors into a `Qwen35Error`. Errors of Python's sqlite3 module itself pass."""
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
    match _primary_code(error):
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
        case _:  # for example a damaged name in the schema
            return (
                f"{file} cannot be used ({error}): if it is not damaged, please report this as an"
                " error of qwen35-mlx"
            )


def _is_damage(error: Exception) -> bool:
    if _primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    # Python raises these itself for text that is not UTF-8, in a column or an error message.
    undecodable = isinstance(error, sqlite3.OperationalError) and not _primary_code(error)
    return undecodable or isinstance(error, DamagedError | UnicodeDecodeError)


def _primary_code(error: Exception) -> int:
    """SQLite's primary result code; 0 if the error has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _read_pragma(db: sqlite3.Connection, pragma: str) -> int:
    return db.execute(f"PRAGMA {pragma}").fetchone()[0]
