"""Finds the pages in a write-ahead log of SQLite, also behind a damaged part of it.

The log is a header and frames, each a page with a small header. The checksum of a frame goes on
from that of the frame before, so SQLite stops at the first one that is wrong. Here the stored
checksum of a wrong frame is what the next one goes on from. The format:
https://sqlite.org/fileformat2.html.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = 0x377F0682  # the last bit says that checksums are of big-endian numbers

# Bytes of a file: how many, and where from. There are fewer where it ends or cannot be read.
Read = Callable[[int, int], bytes]
_Sums = tuple[int, int]


@dataclass(slots=True)
class PageLog:
    """The pages of a log.

    Attributes:
        page_size: 0 if there is no log, or its header is damaged.
        places: where in the log the newest committed version of a page begins.
    """

    page_size: int = 0
    places: dict[int, int] = field(default_factory=dict)


def read_log(read: Read, page_size: int) -> PageLog:
    """The pages of a log. Frames that are damaged, of an older log or not committed are left out.

    Args:
        page_size: for a log whose header is damaged.
    """
    header = read(_HEADER, 0)
    if len(header) < _HEADER:
        return PageLog()
    magic, _, size = struct.unpack(">III", header[:12])
    order = ">" if magic & 1 else "<"
    sums: _Sums | None = _checksums(order, header[:24], (0, 0))
    salts = header[16:24]
    log = PageLog(size)
    if magic & ~1 != _MAGIC or sums != struct.unpack(">II", header[24:]):
        sums, size, log, salts = None, page_size, PageLog(), read(_HEADER + 16, 0)[-8:]
        order = "<"  # as all machines of today write it
    begun: dict[int, int] = {}  # pages of a transaction whose end is still to come
    at = _HEADER
    while len(frame := read(_FRAME_HEADER + size, at)) == _FRAME_HEADER + size:
        number, committed = struct.unpack(">II", frame[:8])
        stored: _Sums = struct.unpack(">II", frame[16:24])
        ours = frame[8:16] == salts
        if (
            ours
            and sums
            and _checksums(order, frame[24:], _checksums(order, frame[:8], sums)) == (stored)
        ):
            begun[number] = at + _FRAME_HEADER
            if committed:
                log.places.update(begun)
                begun.clear()
        sums = stored if ours else None
        at += len(frame)
    return log


def _checksums(order: str, data: bytes, sums: _Sums) -> _Sums:
    """SQLite's checksums of `data`, going on from `sums`.

    Args:
        order: "<" or ">", of the bytes in a number.
    """
    one, two = sums
    for even, odd in struct.iter_unpack(f"{order}II", data):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return one, two
