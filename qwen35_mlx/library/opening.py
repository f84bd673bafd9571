"""Opens the library's files: creates or migrates the database, and never loses a log.

Before SQLite may write, or delete what it takes for garbage, the files are looked at: only regular
files, no log without its database, and no database that lacks what the ledger says was stored.
What may hold messages is put aside under another name and never deleted.
"""

import os
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.library import schema
from qwen35_mlx.library.connections import BUSY_SECONDS, Access, configure, connect, open_file
from qwen35_mlx.library.database_errors import is_damage, translate_errors
from qwen35_mlx.library.ledger import Ledger, Progress, read_ledger
from qwen35_mlx.library.locks import locked

_LOG, _LOG_INDEX = "-wal", "-shm"


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A database file that is ready for connections.

    Attributes:
        access: how to connect to it.
        identity: device and inode, to notice that the file is gone or another.
        durable: the number of the last transaction that is known to be on disk.
        notices: lines for the user.
    """

    access: Access
    identity: tuple[int, int]
    durable: int
    notices: tuple[str, ...] = ()


def ledger_file(file: Path) -> Path:
    """The ledger of a database."""
    return file.with_suffix(".check")


def open_library_file(file: Path) -> OpenedFile:
    """Create the database or migrate it to this version. Only one process does so at a time.

    On a disk that is full or cannot be written, an existing database is opened for reading.

    Raises:
        Qwen35Error: the file comes from a newer version or another program, cannot be read or
            written, or is damaged. A damaged file is renamed together with its log.
    """
    real = Path(os.path.realpath(file))  # SQLite puts the log beside the file, not beside a link
    for part in (real, _beside(real, _LOG), _beside(real, _LOG_INDEX), ledger_file(file)):
        _check_regular(part)
    if real.exists() and not all(os.access(path, os.W_OK) for path in (real, real.parent, file)):
        return _open_for_reading(file, real)
    try:
        return _open_for_writing(file, real)
    except Qwen35Error as error:
        if not _is_full(error.__cause__) or not _size(real):
            raise
        return _open_for_reading(file, real)


def _is_full(error: BaseException | None) -> bool:
    """Whether the disk has no room for SQLite's shared memory, or for a change."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _open_for_writing(file: Path, real: Path) -> OpenedFile:
    with locked(file.with_suffix(".opening"), BUSY_SECONDS):
        _check_not_lost(file, real)
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
        durable, notices = _compare_with_ledger(file, real)
        with translate_errors(file), closing(open_file(file, "rw")) as db:
            try:
                configure(db)
                schema.migrate(db, file)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not is_damage(error):
                    raise
                # Rename before closing: SQLite removes the log with the last connection.
                aside = _put_aside(file, real)
                raise _damaged(file, one_line(error), aside) from None
            return OpenedFile("rw", _identity(file), durable, notices)


def read_progress(db: sqlite3.Connection) -> Progress | None:
    """How far the database has got; None before version 3."""
    try:
        found = db.execute("SELECT library, number FROM progress").fetchone()
        last = db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'messages'").fetchone()
    except sqlite3.OperationalError:
        return None
    return found and Progress(found[0], found[1], found[1], last[0] or 0)


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def is_same_file(file: Path, identity: tuple[int, int]) -> bool:
    """Whether the file still is at its place."""
    try:
        return _identity(file) == identity
    except OSError:
        return False


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _check_regular(file: Path) -> None:
    try:
        mode = file.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise Qwen35Error(f"{file} is not a regular file: move it away and start again")


def _check_not_lost(file: Path, real: Path) -> None:
    """Put the log aside if its database is gone: SQLite would delete it."""
    if _size(real):
        return
    log, ledger = _beside(real, _LOG), ledger_file(file)
    before = read_ledger(ledger)
    if not _size(log) and before is None:
        return
    gone = "is empty" if real.exists() else "is gone"
    if _size(log):
        aside = _put_aside(file, real)
        raise Qwen35Error(
            f"{file} {gone}, and its log, which may hold messages, was put aside as"
            f" {_beside(aside, _LOG).name}: put a copy of {file.name} back, or start again for an"
            f" empty library, and add what can be read with: qwen35-chat --rescue '{aside}'"
        )
    ledger.unlink(missing_ok=True)
    assert before is not None
    raise Qwen35Error(
        f"{file} {gone}, and it had {before.message} messages or more: put a copy of it back, or"
        " start again for an empty library"
    )


def _compare_with_ledger(file: Path, real: Path) -> tuple[int, tuple[str, ...]]:
    """Compare the database and its log with the ledger, before SQLite may change either.

    Returns:
        the number of the last durable transaction, and lines for the user.

    Raises:
        Qwen35Error: durable changes are missing. Copies of the database and the log are kept, and
            the next call accepts what there is.
    """
    before = read_ledger(ledger_file(file))
    if before is None or not _size(real):
        return 0, ()
    try:
        with closing(connect(real, "ro")) as db:
            found = read_progress(db)
            whole = found is None or db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except (sqlite3.Error, UnicodeDecodeError):
        return before.durable, ()  # damage that SQLite itself reports
    if found is None or found.library != before.library or found.latest >= before.latest:
        return before.durable, ()
    if found.latest >= before.durable:
        _accept(file, found)
        return found.latest, (_lost_moments(file),)
    if not whole:
        raise _damaged(file, _what_is_missing(found, before), _put_aside(file, real))
    aside = _copy_aside(file, real)
    _accept(file, found)
    raise Qwen35Error(
        f"{file} lacks {_what_is_missing(found, before)}, because its log was damaged or removed,"
        f" or because it is an older copy; both were kept as {aside.name}: put back a copy that"
        " has them, or start again to go on without them; what can be read is added with:"
        f" qwen35-chat --rescue '{aside}'"
    )


def _accept(file: Path, found: Progress) -> None:
    """Go on from what the database holds."""
    ledger = Ledger(ledger_file(file))
    ledger.write(found)
    ledger.close()


def _what_is_missing(found: Progress, before: Progress) -> str:
    if found.message + 1 < before.message:
        return f"messages {found.message + 1} to {before.message}, which were stored"
    if found.message < before.message:
        return f"message {before.message}, which was stored"
    return "the last changes, such as a reply's text, which were stored"


def _lost_moments(file: Path) -> str:
    return (
        f"the last moments before {file} was closed are missing, such as the end of a reply that"
        " was being written: after a power failure, or because its log was damaged"
    )


def _open_for_reading(file: Path, real: Path) -> OpenedFile:
    """Open a database that cannot be written.

    Raises:
        Qwen35Error: it needs to be written first.
    """
    access: Access = "ro"
    before = read_ledger(ledger_file(file))
    with translate_errors(file):
        try:
            db = connect(real, access)
            version = schema.check_version(db, file)
        except sqlite3.OperationalError as error:
            if is_damage(error):
                raise
            # Without a log there is nothing that an index of the log would be needed for.
            if _size(_beside(real, _LOG)):
                raise Qwen35Error(
                    f"{file} cannot be read where nothing can be written, since its log may hold"
                    " messages: copy its folder elsewhere, and set QWEN35_HOME to the copy"
                ) from None
            access = "immutable"
            db = connect(real, access)
            version = schema.check_version(db, file)
        with closing(db):
            if version < len(schema.MIGRATIONS):
                raise Qwen35Error(
                    f"{file} was written by an earlier version and cannot be written: copy its"
                    " folder elsewhere, and set QWEN35_HOME to the copy"
                )
            found = read_progress(db)
    notices = [f"{file} cannot be written: conversations can be read, not changed"]
    if found and before and found.library == before.library and found.latest < before.latest:
        notices.append(f"{file} lacks {_what_is_missing(found, before)}")
    return OpenedFile(access, _identity(file), 0, tuple(notices))


def _damaged(file: Path, why: str, aside: Path) -> Qwen35Error:
    return Qwen35Error(
        f"{file} is damaged ({why}) and was put aside as {aside.name}: start again"
        f" for an empty library, and add what can be read with: qwen35-chat --rescue '{aside}'"
    )


def _new_name(file: Path) -> Path:
    """A name for a database that is put aside, which neither it nor its log has yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = file.with_name(f"{file.stem}-damaged-{stamp}{file.suffix}")
    number = 1
    while aside.exists() or _beside(aside, _LOG).exists():
        number += 1
        aside = file.with_name(f"{file.stem}-damaged-{stamp}-{number}{file.suffix}")
    return aside


def _put_aside(file: Path, real: Path) -> Path:
    """Rename the database, its log, which may hold changes that it lacks, and the ledger."""
    aside = _new_name(real)
    for suffix in (_LOG, _LOG_INDEX, ""):
        source = _beside(real, suffix)
        if source.exists():
            source.rename(_beside(aside, suffix))
    ledger_file(file).unlink(missing_ok=True)
    return aside


def _copy_aside(file: Path, real: Path) -> Path:
    """Copy the database and its log."""
    aside = _new_name(real)
    try:
        for suffix in ("", _LOG):
            source = _beside(real, suffix)
            if source.exists():
                target = os.open(
                    _beside(aside, suffix), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
                )
                with os.fdopen(target, "wb") as copy, source.open("rb") as original:
                    shutil.copyfileobj(original, copy)
                    copy.flush()
                    os.fsync(copy.fileno())
    except OSError as error:
        for suffix in ("", _LOG):
            _beside(aside, suffix).unlink(missing_ok=True)
        raise Qwen35Error(
            f"{file} lacks changes that were stored, and no copy of it can be kept"
            f" ({error.strerror}): make room on the disk and start again"
        ) from None
    return aside
