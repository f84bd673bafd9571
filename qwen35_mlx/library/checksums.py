"""Checksums of rows: SQLite has none of its own, so a flipped bit in a text goes unnoticed.

Each row of `messages` and `conversations` holds a CRC-32 of all its other columns. SQL computes it
with `row_checksum`, a function that every connection registers; `matches` compares it on reading.
"""

import sqlite3
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

CONVERSATION_COLUMNS = (
    "id",
    "title",
    "model",
    "settings",
    "draft",
    "leaf",
    "created",
    "updated",
    "deleted",
)
USAGE_COLUMNS = (
    "prompt_tokens",
    "cached_tokens",
    "reply_tokens",
    "prefill_seconds",
    "decode_seconds",
    "peak_memory",
)
MESSAGE_COLUMNS = (
    "id",
    "conversation",
    "parent",
    "role",
    "content",
    "thinking",
    "tool_calls",
    "state",
    "finish_reason",
    "error",
    "model",
    *USAGE_COLUMNS,
    "thinking_seconds",
    "created",
)
_TEXT = frozenset(
    {
        *("title", "settings", "draft", "role", "content", "thinking", "tool_calls"),
        *("state", "finish_reason", "error", "model"),
    }
)
_NUMBER = (int, float)
# The columns that a checksum covers, in its order.
COLUMNS: Mapping[str, Sequence[str]] = {
    "conversations": CONVERSATION_COLUMNS,
    "messages": MESSAGE_COLUMNS,
}


def row_checksum(*values: object) -> int:
    """The checksum of column values, with text as UTF-8.

    A number counts by its value: SQLite turns a whole number in a REAL column into a float.
    """
    covered: list[bytes] = []
    for value in values:  # a conversation has many: a union of types would be made for each
        if value is None:
            covered.append(b"None ")
        elif isinstance(value, str):
            data = value.encode()
            covered.append(b"text %d %b" % (len(data), data))
        elif isinstance(value, bytes):
            covered.append(b"text %d %b" % (len(value), value))
        elif isinstance(value, _NUMBER):
            covered.append(f"number {float(value)!r} ".encode())
        else:
            covered.append(f"{value!r} ".encode())
    return zlib.crc32(b"".join(covered))


def matches(row: Sequence[object]) -> bool:
    """Whether a row holds its checksum, which is its last value."""
    return row_checksum(*row[:-1]) == row[-1]


def register(db: sqlite3.Connection) -> None:
    """Give a connection the SQL function `row_checksum`."""
    db.create_function("row_checksum", -1, row_checksum, deterministic=True)


def fill_statement(table: str) -> str:
    """SQL that sets the checksum of every row."""
    return f"UPDATE {table} SET checksum = {_call(table)}"


def _call(table: str, given: Collection[str] = ()) -> str:
    """SQL for the checksum of a row in which the columns `given` get new values.

    Text goes to the function as bytes, since damaged text cannot be decoded.
    """
    values = [f":{name}" if name in given else name for name in COLUMNS[table]]
    names = zip(COLUMNS[table], values, strict=True)
    covered = [f"CAST({value} AS BLOB)" if name in _TEXT else value for name, value in names]
    return f"row_checksum({', '.join(covered)})"


def insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> int:
    """Insert a row with its checksum, and return its id, which is greater than any before.

    Args:
        values: of all columns but the id.
    """
    ((last,),) = db.execute(
        "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = :table), 0),"
        f" coalesce((SELECT max(id) FROM {table}), 0))",
        {"table": table},
    )
    values = {**values, "id": last + 1}
    db.execute(
        f"INSERT INTO {table} ({', '.join(values)}, checksum)"
        f" VALUES ({', '.join(f':{name}' for name in values)}, {_call(table, values)})",
        values,
    )
    return last + 1


def update(
    db: sqlite3.Connection, table: str, row: int, values: Mapping[str, Any], where: str = "TRUE"
) -> bool:
    """Set columns of a row and its checksum; False if there is no such row.

    A damaged row stays damaged: its checksum is then left as it is.

    Args:
        where: a further condition.
    """
    names = ", ".join(f"{name} = :{name}" for name in values)
    changed = db.execute(
        f"UPDATE {table} SET {names}, checksum ="
        f" CASE checksum WHEN {_call(table)} THEN {_call(table, values)} ELSE checksum END"
        f" WHERE id = :row AND {where}",
        {**values, "row": row},
    )
    return bool(changed.rowcount)
