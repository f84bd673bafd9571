"""Reads rows from the pages of an SQLite file, of which any may be damaged or missing.

SQLite finds rows by trees, and loses all that is below a broken page. Here each page is looked at
by itself. Pages of the freelist, which hold what was deleted, are left out. The format:
https://sqlite.org/fileformat2.html.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_mlx.files import open_regular
from qwen35_mlx.library.page_log import PageLog, read_log

LOG = "-wal"  # ends the name of the log of a database
PAGE_SIZE = 4096  # SQLite's default, which libraries have
_MAGIC = b"SQLite format 3\0"
_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_MAX_COLUMNS = 64
_INTEGER_SIZES = (0, 1, 2, 3, 4, 6, 8)


class _BrokenError(Exception):
    """Bytes that are no record."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a table, or an entry of an index.

    Attributes:
        rowid: 0 for an entry of an index.
        kinds: one letter a column: N(ull), I(nteger), F(loat), T(ext) or B(lob).
        values: those of columns that are lost are None; a text may be cut.
        entire: no part is lost, and all text is UTF-8. It may be damaged all the same.
        place: the page's number and where in it the record begins.
        size: in bytes, with what is lost.
    """

    rowid: int
    kinds: str
    values: tuple[Any, ...]
    entire: bool
    place: tuple[int, int]
    size: int


class PageRecords:
    """The records in a database file and its log. Close it after use.

    A place on the disk that cannot be read counts as missing.

    Args:
        file: may be missing if there is a log beside its place.

    Raises:
        OSError: neither can be opened.

    Attributes:
        user_version: of the database; None if its first page is lost.
    """

    def __init__(self, file: Path):
        self._open = ExitStack()
        log_file = Path(f"{file}{LOG}")
        self._file = self._descriptor(file) if file.exists() or not log_file.exists() else None
        try:
            self._log_file = self._descriptor(log_file) if log_file.exists() else None
            header = self._read(self._file, 100, 0)
            known = header.startswith(_MAGIC) and _size_of(header)
            self._log = PageLog()
            if self._log_file is not None:
                self._log = read_log(self._read_log, known or PAGE_SIZE)
        except BaseException:
            self.close()
            raise
        self.page_size = known or self._log.page_size or PAGE_SIZE
        if self._log.page_size not in (0, self.page_size):
            self._log = PageLog()  # of another database
        first = self._page(1)
        whole = first.startswith(_MAGIC)
        self.user_version: int | None = struct.unpack(">I", first[60:64])[0] if whole else None
        # Some builds of SQLite leave bytes at the end of a page free.
        self._usable = self.page_size - (first[20] if whole else 0)
        in_file = os.fstat(self._file).st_size // self.page_size if self._file is not None else 0
        self.pages = max(in_file, *self._log.places, 0)
        self._free = self._freelist(first) if whole else frozenset()

    def _descriptor(self, file: Path) -> int:
        return self._open.enter_context(open_regular(file)).fileno()

    def __enter__(self) -> "PageRecords":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def rows(self) -> Iterator[Record]:
        """All rows of all tables, by page."""
        return self._records((_TABLE_LEAF,))

    def entries(self) -> Iterator[Record]:
        """All entries of all indexes, by page."""
        return self._records((_INDEX_LEAF, _INDEX_INTERIOR))

    def row(self, place: tuple[int, int]) -> Record:
        """The row at a place that `rows` has given."""
        number, at = place
        return self._record(self._page(number), number, at, _TABLE_LEAF)

    def in_log(self, page: int) -> bool:
        """Whether a page is of the log, which is newer than the file."""
        return page in self._log.places

    def _records(self, kinds: tuple[int, ...]) -> Iterator[Record]:
        for number in range(1, self.pages + 1):
            start = 100 if number == 1 else 0
            page = self._page(number)
            if number in self._free or len(page) <= start or page[start] not in kinds:
                continue
            kind = page[start]
            header = start + (12 if kind == _INDEX_INTERIOR else 8)
            (count,) = struct.unpack_from(">H", page, start + 3)
            end = min(header + 2 * count, self._usable - 1)
            for pointer in range(header, end - 1, 2):
                (at,) = struct.unpack_from(">H", page, pointer)
                try:
                    if at >= end:
                        yield self._record(page, number, at, kind)
                except _BrokenError:
                    continue

    def _record(self, page: bytes, number: int, at: int, kind: int) -> Record:
        cell = at + (4 if kind == _INDEX_INTERIOR else 0)
        size, cell = _varint(page, cell)
        rowid, cell = _varint(page, cell) if kind == _TABLE_LEAF else (0, cell)
        serials, start = _serials(page[cell : self._usable], size)
        payload = self._payload(page, cell, size, kind == _TABLE_LEAF)
        values, decoded = _values(serials, payload, start)
        entire = decoded and len(payload) == size
        return Record(rowid, "".join(map(_kind, serials)), values, entire, (number, at), size)

    def _payload(self, page: bytes, at: int, size: int, table: bool) -> bytes:
        """The payload of a cell, up to the first overflow page that is lost.

        Raises:
            _BrokenError: it is longer than the page or the file.
        """
        usable = self._usable
        most = usable - 35 if table else (usable - 12) * 64 // 255 - 23
        local = size
        if size > most:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (usable - 4)
            local = local if local <= most else least
        if size > self.pages * usable or at + local > usable:
            raise _BrokenError
        parts, left = [page[at : at + local]], size - local
        following = page[at + local : at + local + 4]
        while left:
            overflow = self._page(int.from_bytes(following, "big"))
            if not any(overflow):
                break
            parts.append(overflow[4 : 4 + min(left, usable - 4)])
            left -= len(parts[-1])
            following = overflow[:4]
        return b"".join(parts)

    def _page(self, number: int) -> bytes:
        """A page as it was last committed; b"" if it is missing."""
        if number in self._log.places:
            page = self._read_log(self.page_size, self._log.places[number])
        else:
            page = self._read(self._file, self.page_size, (number - 1) * self.page_size)
        return page if len(page) == self.page_size and number > 0 else b""

    def _read_log(self, size: int, at: int) -> bytes:
        return self._read(self._log_file, size, at)

    def _read(self, descriptor: int | None, size: int, at: int) -> bytes:
        try:
            return os.pread(descriptor, size, at) if descriptor is not None and at >= 0 else b""
        except OSError:  # a bad place of the disk
            return b""

    def _freelist(self, first: bytes) -> frozenset[int]:
        """The pages that are free, as far as their list is whole.

        Args:
            first: the first page.
        """
        free: set[int] = set()
        trunk = int.from_bytes(first[32:36], "big")
        while trunk and trunk not in free and (page := self._page(trunk)):
            following, count = struct.unpack(">II", page[:8])
            if count > self._usable // 4 - 2 or following > self.pages:
                break
            numbers = struct.unpack(f">{count}I", page[8 : 8 + 4 * count])
            if not all(1 < number <= self.pages for number in numbers):
                break
            free.update(numbers, (trunk,))
            trunk = following
        return frozenset(free)


def _size_of(header: bytes) -> int:
    """The page size in the header of a database; 0 if it is none."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    return size if 512 <= size <= 65536 and size & (size - 1) == 0 else 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, with a sign, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + 9]):
        if index == 8:
            value = value << 8 | byte
            return value - (1 << 64 if value >> 63 else 0), at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    raise _BrokenError


def _serials(payload: bytes, size: int) -> tuple[list[int], int]:
    """The serial types of a record's columns, and where their values begin.

    Args:
        payload: its beginning.
        size: bytes in all.

    Raises:
        _BrokenError: it is no record of that size.
    """
    end, at = _varint(payload, 0)
    serials: list[int] = []
    while at < end and len(serials) < _MAX_COLUMNS:
        serial, at = _varint(payload, at)
        serials.append(serial)
        if serial < 0 or serial in (10, 11):
            raise _BrokenError
    if at != end or end + sum(map(_length, serials)) != size:
        raise _BrokenError
    return serials, end


def _values(serials: Sequence[int], payload: bytes, at: int) -> tuple[tuple[Any, ...], bool]:
    """The values of columns, and whether all text is UTF-8."""
    values: list[Any] = []
    decoded = True
    for serial in serials:
        data = payload[at : at + _length(serial)]
        at += _length(serial)
        kind = _kind(serial)
        if kind == "T":
            text = data.decode("utf-8", "replace")
            decoded = decoded and text.encode() == data
            values.append(text)
        elif kind == "B":
            values.append(data)
        elif kind == "N" or at > len(payload):
            values.append(None)
        elif kind == "F":
            values.append(struct.unpack(">d", data)[0])
        else:
            values.append(serial - 8 if serial >= 8 else int.from_bytes(data, "big", signed=True))
    return tuple(values), decoded


def _length(serial: int) -> int:
    """The bytes of a value of a serial type."""
    if serial >= 12:
        return (serial - 12) // 2
    return 8 if serial == 7 else _INTEGER_SIZES[serial] if serial < 7 else 0


def _kind(serial: int) -> str:
    if serial >= 12:
        return "T" if serial & 1 else "B"
    return "N" if serial == 0 else "F" if serial == 7 else "I"
