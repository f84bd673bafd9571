"""Reads a whole library and compares it with its checksums."""

import sqlite3
from collections.abc import Iterator

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import schema
from qwen35_mlx.library.checksums import COLUMNS, matches
from qwen35_mlx.library.database import Database

MAX_LINES = 10
_SEARCH_DIFFERS = """
    SELECT EXISTS (
        SELECT 1 FROM messages LEFT JOIN search ON search.rowid = messages.id WHERE
            search.content IS NOT folded(CAST(messages.content AS BLOB))
            OR search.thinking IS NOT folded(CAST(messages.thinking AS BLOB))
    ) OR EXISTS (SELECT rowid FROM search EXCEPT SELECT id FROM messages)
"""


def damages(library: Database) -> list[str]:
    """One line for each damage that is found, the first `MAX_LINES`; none if all is whole."""
    lines: list[str] = []
    try:
        with library.reading() as db:
            for line in _damages(db):
                if len(lines) == MAX_LINES:
                    return [*lines, "and more"]
                lines.append(line)
    except Qwen35Error as error:
        lines.append(str(error))
    return lines


def _damages(db: sqlite3.Connection) -> Iterator[str]:
    structure = [line for (line,) in db.execute("PRAGMA integrity_check(3)")]
    if structure != ["ok"]:
        yield from (part for line in structure for part in line.splitlines())
    for table, columns in COLUMNS.items():
        rows = db.execute(f"SELECT {', '.join(columns)}, checksum FROM {table} ORDER BY id")
        for row in rows:
            if not matches(row):
                yield f"{table.removesuffix('s')} {row[0]} differs from its checksum"
    for (conversation,) in db.execute(
        "SELECT id FROM conversations WHERE leaf IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM messages WHERE messages.id = leaf AND conversation = conversations.id)"
    ):
        yield f"conversation {conversation} has lost its last message"
    for message, parent in db.execute(
        "SELECT id, parent FROM messages AS one WHERE parent IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM messages WHERE id = one.parent AND conversation = one.conversation)"
    ):
        yield f"message {message} follows message {parent}, which is lost"


def rebuild_search(library: Database) -> bool:
    """Compare the search index with the messages, and rebuild it if it differs.

    Returns:
        whether it was rebuilt.
    """
    try:
        with library.transaction() as db:
            db.execute("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")
            if not db.execute(_SEARCH_DIFFERS).fetchone()[0]:
                return False
    except Qwen35Error:
        pass  # the index is damaged
    with library.transaction() as db:
        for statement in schema.SEARCH:
            db.execute(statement)
    return True
