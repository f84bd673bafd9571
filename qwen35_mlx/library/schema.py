"""The tables of the library, and the migrations that make them.

The schema changes by migrations, numbered by `PRAGMA user_version`. Each migration is one
transaction that also sets the number: a process that is killed halfway leaves the old version.
Statements use the functions that `connections` gives every connection.
"""

import sqlite3
from contextlib import suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.checksums import fill_statement


def _folded(column: str) -> str:
    """SQL for the folded text of a column; damaged text cannot be decoded by itself."""
    return f"folded(CAST({column} AS BLOB))"


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
# Checksums of rows, the number of the last transaction (see `ledger`), and the files of model
# states that hold tokens of a conversation, by their paths within the states' folder.
_CHECKS = (
    "ALTER TABLE messages ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE conversations ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0",
    fill_statement("messages"),
    fill_statement("conversations"),
    "CREATE TABLE progress (library TEXT NOT NULL, number INTEGER NOT NULL) STRICT",
    "INSERT INTO progress VALUES (lower(hex(randomblob(8))), 0)",
    """
    CREATE TABLE states (
        file TEXT NOT NULL,
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        PRIMARY KEY (file, conversation)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX states_by_conversation ON states (conversation)",
)
# The search index as it is now, of folded text: one that is found in any spelling. Messages are
# found by trigrams, and by shorter words in a scan of what the index stores.
SEARCH = (
    "DROP TABLE IF EXISTS search",
    "CREATE VIRTUAL TABLE search USING fts5 (content, thinking, tokenize='trigram')",
    "INSERT INTO search (rowid, content, thinking)"
    f" SELECT id, {_folded('content')}, {_folded('thinking')} FROM messages",
)
_FOLDED_SEARCH = (
    *(f"DROP TRIGGER message_{change}" for change in ("added", "removed", "changed")),
    *SEARCH,
    f"""
    CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
        INSERT OR REPLACE INTO search (rowid, content, thinking)
        VALUES (new.id, {_folded("new.content")}, {_folded("new.thinking")});
    END
    """,
    """
    CREATE TRIGGER message_removed AFTER DELETE ON messages BEGIN
        DELETE FROM search WHERE rowid = old.id;
    END
    """,
    f"""
    CREATE TRIGGER message_changed AFTER UPDATE OF content, thinking ON messages BEGIN
        INSERT OR REPLACE INTO search (rowid, content, thinking)
        VALUES (new.id, {_folded("new.content")}, {_folded("new.thinking")});
    END
    """,
)
# The order of changes, which no wrong clock upsets. A checksum does not cover it. Conversations
# from before get their place by their times; a time that has not come yet is that of the newest
# message which was written before.
_NOW = "CAST(strftime('%s', 'now') AS INTEGER)"
_ORDER = (
    "ALTER TABLE conversations ADD COLUMN changed INTEGER NOT NULL DEFAULT 0",
    f"""
    UPDATE conversations SET changed = place FROM (
        SELECT id, row_number() OVER (ORDER BY moment, updated, id) AS place FROM (
            SELECT id, updated, iif(updated <= {_NOW}, updated, coalesce((
                SELECT max(created) FROM messages WHERE created <= {_NOW} AND id <
                    (SELECT max(id) FROM messages WHERE conversation = conversations.id)
            ), 0)) AS moment FROM conversations
        )
    ) AS places WHERE places.id = conversations.id
    """,
    "DROP INDEX conversations_by_time",
    "CREATE INDEX conversations_by_change ON conversations (changed, updated, id)"
    " WHERE deleted IS NULL",
)
# Which conversations are pinned (1) and which are archived (-1). A checksum does not cover it.
_SHELVES = ("ALTER TABLE conversations ADD COLUMN shelf INTEGER NOT NULL DEFAULT 0",)
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    *(_TABLES, _SEARCH, _CHECKS),
    (*_FOLDED_SEARCH, *_ORDER),
    _SHELVES,
)


def check_version(db: sqlite3.Connection, file: Path) -> int:
    """The version of the database's format; 0 for an empty file.

    Raises:
        Qwen35Error: it is another program's database, or comes from a newer version.
    """
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
    return version


def migrate(db: sqlite3.Connection, file: Path) -> None:
    """Bring the database to this version. Errors: `check_version`."""
    version = check_version(db, file)
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


def _read_pragma(db: sqlite3.Connection, pragma: str) -> int:
    return db.execute(f"PRAGMA {pragma}").fetchone()[0]
