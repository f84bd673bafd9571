"""Copies a whole library to one file, also while windows write to it."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import sync_folder
from qwen35_mlx.library.connections import connect
from qwen35_mlx.library.database import Database
from qwen35_mlx.library.database_errors import translate_errors
from qwen35_mlx.library.purging import purge_rows
from qwen35_mlx.user_paths import exists


def back_up(library: Database, file: Path) -> int:
    """Write the library as it is at one moment to a new file, without what was deleted.

    The file is a `library.db` without a log, which only its owner may read. The disk has it when
    the call returns.

    Returns:
        how many conversations it has.

    Raises:
        Qwen35Error: there is such a file already, or it cannot be written; nothing is left of it.
    """
    if exists(file):
        raise Qwen35Error(f"{file} exists: give another name")
    with _new_file(file) as part, translate_errors(part):
        with closing(connect(library.file, "ro")) as db:
            db.execute("VACUUM INTO ?", (os.fspath(part),))
        with closing(connect(part)) as db:
            count = _leave_out_deleted(db)
            # The log goes into the file, and is not needed for reading it.
            db.execute("PRAGMA journal_mode = DELETE")
    return count


def _leave_out_deleted(db: sqlite3.Connection) -> int:
    """Remove deleted conversations, of which nothing stays in the file; the number of others."""
    deleted = [i for (i,) in db.execute("SELECT id FROM conversations WHERE deleted IS NOT NULL")]
    if deleted:
        purge_rows(db, deleted)
        db.execute("VACUUM")
    return db.execute("SELECT count(*) FROM conversations").fetchone()[0]


@contextmanager
def _new_file(file: Path) -> Generator[Path]:
    """An empty file that takes the place of `file` once all is written, and is removed if not."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        try:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            yield part
            descriptor = os.open(part, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            part.rename(file)
            sync_folder(file.parent)
        except BaseException:
            for suffix in ("", "-wal", "-shm", "-journal"):
                part.with_name(part.name + suffix).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Qwen35Error(f"{file} cannot be written: {error.strerror}") from None
