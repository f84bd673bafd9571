"""One file of a stored snapshot: safetensors with checksums.

Any safetensors reader opens these files. Besides tensors they hold, as metadata, a checksum of
every tensor and one of the header itself, so that a flipped, missing or added byte is always found.
They are written under a temporary name, synced and renamed: a file under its final name is
complete. A writer locks its temporary file, which sets it apart from one that was left behind.
"""

import fcntl
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from qwen35_mlx.checkpoint import safetensors_header
from qwen35_mlx.checkpoint.safetensors_header import HeaderError, TensorEntry, encode_header
from qwen35_mlx.files import read_exactly, sync_folder, write_all

FORMAT = 1
TEMPORARY = ".tmp"
# The numpy type that holds the bits of each dtype of the format; numpy has no bfloat16.
NUMPY = {
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
MAX_HEADER_BYTES = 1 << 24
# Stands in the header for its own checksum while that is computed.
_NO_CHECKSUM = "00000000"


class UnusableError(Exception):
    """A file is damaged, of another format or gone; the message says which."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file.

    Attributes:
        dtype: as the format spells it, a key of `NUMPY`.
        shape: as stored.
        offset: of its first byte, counted from the start of the file.
        nbytes: its size.
        checksum: CRC-32 of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of a file; `metadata` is without the checksums."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]


def write(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, np.ndarray]]
) -> int:
    """Write a file so that all of it is there or nothing.

    Args:
        metadata: text by name; "format", "checksums" and "header" are added.
        tensors: by name, the format's dtype and the bits.

    Returns:
        The size of the file in bytes.

    Raises:
        OSError: from the file system, such as a full disk. Nothing is left behind.
    """
    entries: dict[str, TensorEntry] = {}
    contents, checksums, position = [], [], 0
    for name, (dtype, array) in tensors.items():
        assert array.dtype == NUMPY[dtype], (name, dtype, array.dtype)
        contiguous = np.ascontiguousarray(array)
        data = byte_view(contiguous)
        contents.append(data)
        checksums.append(f"{zlib.crc32(data):08x}")
        end = position + data.nbytes
        entries[name] = TensorEntry(dtype, contiguous.shape, position, end)
        position = end
    complete = {**metadata, "format": str(FORMAT), "checksums": " ".join(checksums)}
    checksum = _header_checksum(complete, entries)
    header = encode_header({**complete, "header": checksum}, entries)
    with _temporary(path) as (file, temporary):
        write_all(file, memoryview(len(header).to_bytes(8, "little") + header))
        for data in contents:
            write_all(file, data)
        os.fsync(file.fileno())
        temporary.rename(path)
    sync_folder(path.parent)
    return 8 + len(header) + position


def byte_view(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, to be read or filled."""
    return array.reshape(-1).view(np.uint8).data


def _header_checksum(metadata: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> str:
    """The checksum of a header in which its own checksum is blank.

    Args:
        metadata: all of it but "header".
    """
    blank = encode_header({**metadata, "header": _NO_CHECKSUM}, tensors)
    return f"{zlib.crc32(blank):08x}"


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """A locked new file beside `path`, removed at the end unless it was renamed."""
    while True:
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY}")
        file = FileIO(temporary, "xb", opener=_open_private)
        _lock(file)
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # `remove_abandoned` came between creation and lock
    try:
        yield file, temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
        file.close()


def _open_private(path: str, flags: int) -> int:
    """Open for the owner only: a snapshot reveals the conversation."""
    return os.open(path, flags, 0o600)


def _open_waiting_for_nothing(path: str, flags: int) -> int:
    """Open a file that may be a pipe, which would wait for the other end, or a link."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _lock(file: FileIO) -> None:
    """Mark a file as being written. Without locks in the file system, nobody can check either."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


def remove_abandoned(folder: Path) -> int:
    """Delete temporary files whose writer is gone, and return their number."""
    removed = 0
    for path in folder.glob(f"*{TEMPORARY}"):
        with suppress(OSError), FileIO(path, "rb", opener=_open_waiting_for_nothing) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


@contextmanager
def opened(path: Path) -> Iterator[tuple[FileIO, Header]]:
    """The open file and its checked header.

    Raises:
        UnusableError: it is gone, unreadable, not a file of this format, or its header is damaged.
    """
    try:
        file = FileIO(path, "rb", opener=_open_waiting_for_nothing)
    except FileNotFoundError:
        raise UnusableError("is gone") from None
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror})") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnusableError("is not a regular file")
        try:
            yield file, _read_header(file)
        except OSError as error:
            raise UnusableError(f"cannot be read ({error.strerror})") from None


def _read_header(file: FileIO) -> Header:
    try:
        header = safetensors_header.read_header(file, MAX_HEADER_BYTES)
        metadata = dict(header.metadata)
        found_format = metadata["format"]
        checksum = metadata.pop("header")
        if found_format != str(FORMAT):
            raise UnusableError(f"has format {found_format}, and this version reads {FORMAT}")
        # The first comparison also finds what JSON does not see, such as other white space.
        canonical = encode_header({**metadata, "header": checksum}, header.tensors)
        if canonical != header.text or _header_checksum(metadata, header.tensors) != checksum:
            raise UnusableError("is damaged")
        checksums = [int(text, 16) for text in metadata.pop("checksums").split()]
        tensors, position = {}, 0
        for (name, entry), tensor_checksum in zip(header.tensors.items(), checksums, strict=True):
            offset, nbytes = header.data_start + entry.begin, entry.end - entry.begin
            tensors[name] = Entry(entry.dtype, entry.shape, offset, nbytes, tensor_checksum)
            position = entry.end
    except (HeaderError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnusableError("is damaged") from None
    if os.fstat(file.fileno()).st_size != header.data_start + position:
        raise UnusableError("is damaged")
    return Header(metadata, tensors)


def read_tensor(file: FileIO, entry: Entry, parts: Sequence[memoryview] = ()) -> np.ndarray:
    """The bits of a tensor, checked. Several threads may share the file.

    Args:
        parts: writable memory that is filled in order, in place of an array that is returned; as
            many bytes as the tensor has.

    Raises:
        UnusableError: the file is too short, or the checksum differs.
    """
    array = np.empty(0, NUMPY[entry.dtype])
    if not parts:
        array = np.empty(entry.shape, NUMPY[entry.dtype])
        parts = [byte_view(array)]
    checksum, offset = 0, entry.offset
    for part in parts:
        try:
            read_exactly(file, part, offset)
        except EOFError:
            raise UnusableError("is damaged") from None
        checksum = zlib.crc32(part, checksum)
        offset += part.nbytes
    if checksum != entry.checksum or offset != entry.offset + entry.nbytes:
        raise UnusableError("is damaged")
    return array


def verify(path: Path) -> Header:
    """Read all of a file and compare every checksum.

    Raises:
        UnusableError: it is damaged, of another format or gone.
    """
    with opened(path) as (file, header):
        for entry in header.tensors.values():
            read_tensor(file, entry)
        return header
