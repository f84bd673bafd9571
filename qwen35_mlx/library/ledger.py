"""A small file beside the database that says how far it had got.

SQLite ends a damaged write-ahead log at the first bad frame and drops the rest without a word, and
an older copy of a database looks whole. So every transaction counts up a number in the database,
and after its commit the number is written here, outside the database and its log. A database with a
smaller number than its ledger lacks changes that were stored.

The ledger may lag, because a process can be killed between the commit and the write, but it never
leads: it must therefore be read before the number in the database.
"""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import regular_descriptor

# One sector, which a disk writes whole or not at all.
SIZE = 128
_LINE = re.compile(r"(([0-9a-f]{16}) (\d{1,18}) (\d{1,18}) (\d{1,18})) ([0-9a-f]{8}) *\n")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a library had got.

    Attributes:
        library: 16 hex digits that name the library.
        durable: the number of the last transaction that waited for the disk.
        latest: the number of the last transaction; a power failure may undo those after `durable`.
        message: the greatest message id that was ever given.
    """

    library: str
    durable: int
    latest: int
    message: int


class Ledger:
    """The open ledger of one library.

    Args:
        file: made if it is missing.

    Raises:
        Qwen35Error: it is not a regular file, or cannot be opened.
    """

    def __init__(self, file: Path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            self._descriptor: int | None = regular_descriptor(file, flags)
        except OSError as error:
            raise Qwen35Error(f"{file} cannot be used ({error.strerror}): move it away") from None

    def write(self, progress: Progress) -> None:
        """Replace the content, without waiting for the disk."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, _encode(progress), 0)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_ledger(file: Path) -> Progress | None:
    """What a ledger says; None if it is missing, damaged or not a regular file."""
    try:
        descriptor = regular_descriptor(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = _LINE.fullmatch(os.pread(descriptor, SIZE, 0).decode("ascii", "replace"))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if found is None or found[6] != _checksum(found[1]):
        return None
    return Progress(found[2], int(found[3]), int(found[4]), int(found[5]))


def _encode(progress: Progress) -> bytes:
    text = f"{progress.library} {progress.durable} {progress.latest} {progress.message}"
    return f"{text} {_checksum(text)}".ljust(SIZE - 1).encode() + b"\n"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
