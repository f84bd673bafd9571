"""The library's database: connections of each thread, transactions and checkpoints."""

import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from weakref import ref

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.connections import Access, connect
from qwen35_mlx.library.database_errors import DamagedError, translate_errors
from qwen35_mlx.library.ledger import Ledger, Progress
from qwen35_mlx.library.opening import is_same_file, ledger_file, open_library_file
from qwen35_mlx.lifetime import Owner

# Attempts to empty the log while other windows read, and the seconds between them.
CHECKPOINT_ATTEMPTS, CHECKPOINT_SECONDS = 20, 0.05
# Seconds from a change to the attempts, for changes that come together, and between rounds of them.
CHECKPOINT_DELAY, CHECKPOINT_PAUSE = 0.1, 2.0


class Database:
    """The database of one window. Each thread gets its own connection.

    A read therefore never waits for the write of another thread.

    Attributes:
        file: the SQLite file.
        read_only: the disk, the folder or the file cannot be written.

    Raises:
        Qwen35Error: from every method: the disk is full, or the file is damaged, gone, or locked
            for too long. The database is then unchanged.
    """

    def __init__(self, file: Path):
        self.file = file
        opened = open_library_file(file)
        self.read_only = opened.access != "rw"
        self._access: Access = opened.access
        self._identity = opened.identity
        self._durable = opened.durable
        self._ledger = None if self.read_only else Ledger(ledger_file(file))
        self._local = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._owner = Owner()
        self._checkpointer: threading.Thread | None = None
        self._checkpoint_due = False
        self._notices = list(opened.notices)
        self._report: Callable[[str], None] = self._notices.append

    def close(self) -> None:
        """Close all connections. No call may run in another thread or follow."""
        if not self._owner.in_process:
            return  # SQLite must not see the connections of a parent process
        with self._lock:
            self._closed.set()
            checkpointer = self._checkpointer
        # That thread itself may hold the last reference to what nobody has closed.
        if checkpointer not in (None, threading.current_thread()):
            checkpointer.join()
        with self._lock:
            while self._connections:
                self._connections.pop().close()
            if self._ledger is not None:
                self._ledger.close()

    def notices(self) -> list[str]:
        """Lines for the user since the last call, unless `report_to` sends them elsewhere."""
        lines = list(self._notices)
        self._notices.clear()
        return lines

    def report_to(self, notice: Callable[[str], None]) -> None:
        """Call `notice` with lines for the user, in any thread."""
        self._report = notice
        for line in self.notices():
            notice(line)

    def report(self, line: str) -> None:
        """Pass a line on to the user."""
        self._report(line)

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
            if self.read_only:
                raise Qwen35Error(
                    f"{self.file} cannot be written, so nothing is changed: make the disk and the"
                    " folder writable, or set QWEN35_HOME to a folder that you may write to"
                )
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                progress = self._count(db, durable)
                db.execute("COMMIT")
            except BaseException:
                self._roll_back(db)
                raise
            self._durable = progress.durable
            if self._ledger is not None:
                with suppress(OSError):  # it only lags
                    self._ledger.write(progress)
            if durable:
                self._checkpoint_later()

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

    def _checkpoint_later(self) -> None:
        """Move the log into the database, in a thread of its own.

        The log then holds little more than the turn that is running: damage to it can do no more
        than that, and a copy of the database alone has all that came before.
        """
        with self._lock:
            self._checkpoint_due = not self._closed.is_set()
            if self._checkpoint_due and self._checkpointer is None:
                self._checkpointer = threading.Thread(
                    target=_checkpoints, args=(ref(self), self._closed), name="checkpoint"
                )
                self._checkpointer.daemon = True
                self._checkpointer.start()

    def _checkpoint(self) -> float | None:
        """Move the log if a change is due, which none is after an error.

        Returns:
            Seconds to wait before the next time; None if the thread is to end.
        """
        with self._lock:
            if not self._checkpoint_due or self._closed.is_set():
                self._checkpointer = None
                return None
            self._checkpoint_due = False
        with suppress(Qwen35Error):
            if not self._move_log():
                self._checkpoint_due = True
                return CHECKPOINT_PAUSE
        return CHECKPOINT_DELAY

    def _move_log(self) -> bool:
        """Move the log into the database and begin a new one, in the space of the old one.

        False if other windows read or write all the time.

        The first transaction of a new log makes the old ones invalid, so it follows at once:
        SQLite would put what a damaged log still holds over newer pages. An empty file would do
        too, but growing it again would cost the next turn several milliseconds.
        """
        with self._checkpointed("RESTART") as (db, moved):
            if moved:
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("UPDATE progress SET number = number + 1")
            return moved

    def empty_log(self) -> None:
        """Move the log into the database and leave no byte in it."""
        with self._checkpointed("TRUNCATE"):
            pass

    @contextmanager
    def _checkpointed(self, kind: str) -> Generator[tuple[sqlite3.Connection, bool]]:
        """A connection, and whether a checkpoint was made; other windows may be too busy."""
        self._check_place()
        moved = False
        with translate_errors(self.file), closing(connect(self.file, busy_seconds=0)) as db:
            for _ in range(CHECKPOINT_ATTEMPTS):
                with suppress(sqlite3.OperationalError):  # busy
                    moved = db.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()[0] == 0
                if moved or self._closed.wait(CHECKPOINT_SECONDS):
                    break
            yield db, moved

    def _count(self, db: sqlite3.Connection, durable: bool) -> Progress:
        """Number the transaction; what the ledger will say about it."""
        row = db.execute("UPDATE progress SET number = number + 1 RETURNING library, number")
        found = row.fetchall()
        if len(found) != 1:
            raise DamagedError("the number of the last transaction is missing")
        library, number = found[0]
        last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        last_message = last[0] if last else 0
        return Progress(library, number if durable else self._durable, number, last_message)

    def _check_place(self) -> None:
        """Check that the file is still there: SQLite would go on writing to a deleted one.

        Raises:
            Qwen35Error: it is gone, or another file is in its place.
        """
        if not is_same_file(self.file, self._identity):
            raise Qwen35Error(
                f"{self.file} was removed, moved or replaced while it was open: put it back, or"
                " quit and start again"
            )

    def _connection(self) -> sqlite3.Connection:
        self._owner.check_process("this library")
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if self._closed.is_set():
            raise Qwen35Error(f"{self.file} was closed: open it again")
        if db is None or not db.in_transaction:
            self._check_place()
        if db is None:
            with self._lock:
                db = self._local.db = connect(self.file, self._access)
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


def _checkpoints(database: "ref[Database]", closed: threading.Event) -> None:
    """The checkpoint thread. Between checkpoints it holds no database that nobody else uses."""
    pause: float | None = CHECKPOINT_DELAY
    while pause is not None:
        closed.wait(pause)
        if (found := database()) is None:
            return
        pause = found._checkpoint()
        del found
