"""A prepared database as one window's threads use it: connections and transactions."""

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.database import connect, prepare, translate_errors


class Database:
    """Each thread gets a connection of its own, so a read never waits for another thread's write.

    Attributes:
        file: the database.

    Raises:
        Qwen35Error: from every method: the disk is full, the file damaged or kept busy. Nothing
            has changed then.
    """

    def __init__(self, file: Path):
        self.file = file
        prepare(file)
        self._local = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._opening = threading.Lock()
        self._with_closed_fence = False

    def close(self) -> None:
        """No other thread may be in a call, and no call may follow."""
        with self._opening:
            self._with_closed_fence = True
            while self._connections:
                self._connections.pop().close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Generator[sqlite3.Connection]:
        """Several changes as one, with one wait for the disk; an exception takes all back.

        Only calls of this thread belong to it; within another one it is a part of that. Keep it
        short: other windows wait.

        Args:
            durable: whether the disk has it at the end, and not the operating system only.
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
        """Several reads that see the same moment."""
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
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if self._with_closed_fence or db is None:
            with self._opening:
                if self._with_closed_fence:
                    raise Qwen35Error(f"{self.file} was closed: open it again")
                db = self._local.db = connect(self.file)
                self._connections.add(db)
        return db

    def _roll_back(self, db: sqlite3.Connection) -> None:
        """Roll back. SQLite may have done so itself, on a full disk, say."""
        with suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        if db.in_transaction:
            # Or the next change would be taken for a part of this transaction.
            self._local.db = None
            self._connections.discard(db)
            db.close()
