"""One file of model state: safetensors that can tell whether it is whole.

Any safetensors reader opens these files. Besides tensors they carry, as metadata, a checksum of
every tensor and one of the header itself, so that no flipped, missing or added byte goes unseen.
They are written under a temporary name, synced and renamed: under its own name a file is complete.
A writer locks its temporary file, so that others can tell it from one that was left behind.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_mlx.files import sync_folder

FORMAT = 1
TEMPORARY = ".tmp"
# What numpy holds for each dtype of the format; it knows no bfloat16, hence its bits.
NUMPY = {
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
MAX_HEADER_BYTES = 1 << 24
# macOS refuses a single read or write of 2 GiB or more.
MAX_IO_BYTES = 1 << 30
_ZEROS = "00000000"


class UnusableError(Exception):
    """A file is damaged, of another format or gone; the message says which."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `kind` is the format's dtype, `offset` counts from the file's start."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]


def write(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, np.ndarray]]
) -> int:
    """Write a file so that it is there completely or not at all; its size.

    Args:
        metadata: text by name; "format", "checksums" and "header" are added.
        tensors: by name, the format's dtype and the bits.

    Raises:
        OSError: the disk is full, say. Nothing is left behind then.
    """
    entries: dict[str, Any] = {}
    arrays, checksums, position = [], [], 0
    for name, (kind, array) in tensors.items():
        assert array.dtype == NUMPY[kind], (name, kind, array.dtype)
        data = np.ascontiguousarray(array)
        flat = raw(data)
        arrays.append(flat)
        checksums.append(f"{zlib.crc32(flat):08x}")
        entries[name] = {
            "dtype": kind,
            "shape": list(data.shape),
            "data_offsets": [position, position + flat.nbytes],
        }
        position += flat.nbytes
    stated = {**metadata, "format": str(FORMAT), "checksums": " ".join(checksums)}
    header = _header_bytes(entries, stated, _ZEROS)
    header = _header_bytes(entries, stated, f"{zlib.crc32(header):08x}")
    size = 8 + len(header) + position
    with _temporary(path) as (file, temporary):
        _write_all(file, memoryview(len(header).to_bytes(8, "little") + header))
        for flat in arrays:
            _write_all(file, flat)
        os.fsync(file.fileno())
        temporary.rename(path)
    sync_folder(path.parent)
    return size


def raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, to read or to fill."""
    return array.reshape(-1).view(np.uint8).data


def _header_bytes(entries: Mapping[str, Any], metadata: Mapping[str, str], own: str) -> bytes:
    text = json.dumps({"__metadata__": {**metadata, "header": own}, **entries})
    encoded = text.encode()
    return encoded + b" " * (-len(encoded) % 8)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """A locked new file beside `path`; removed again unless it was renamed."""
    while True:
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY}")
        file = FileIO(temporary, "xb", opener=_private)
        _lock(file)
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # somebody cleaned up between creation and lock
    try:
        yield file, temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
        file.close()


def _private(path: str, flags: int) -> int:
    """Opened for its owner only: a state holds what was said."""
    return os.open(path, flags, 0o600)


def _lock(file: FileIO) -> None:
    """Tell others that the writer lives; where files cannot be locked, nobody can ask either."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        done = file.write(data[:MAX_IO_BYTES])
        data = data[done or 0 :]


def remove_abandoned(folder: Path) -> int:
    """Delete temporary files whose writer is gone; how many there were."""
    removed = 0
    for path in folder.glob(f"*{TEMPORARY}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


@contextmanager
def opened(path: Path) -> Iterator[tuple[FileIO, Header]]:
    """The open file and its checked header.

    Raises:
        UnusableError: it cannot be read, is no file of this format, or its header is damaged.
    """
    try:
        file = FileIO(path, "rb")
    except FileNotFoundError:
        raise UnusableError("is gone") from None
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror})") from None
    with file:
        try:
            yield file, _read_header(file)
        except OSError as error:
            raise UnusableError(f"cannot be read ({error.strerror})") from None


def _read_header(file: FileIO) -> Header:
    length = int.from_bytes(file.read(8) or b"", "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise UnusableError("is damaged")
    text = bytearray(length)
    _read_into(file, memoryview(text))
    try:
        parsed = json.loads(text.decode())
        metadata = parsed.pop("__metadata__")
        stated_format = metadata["format"]
        own = metadata.pop("header")
        entries, position = parsed, 0
        if stated_format != str(FORMAT):
            raise UnusableError(f"has format {stated_format}, and this version reads {FORMAT}")
        if _header_bytes(entries, metadata, own) != text:
            raise UnusableError("is damaged")
        if f"{zlib.crc32(_header_bytes(entries, metadata, _ZEROS)):08x}" != own:
            raise UnusableError("is damaged")
        tensors = {}
        for (name, entry), checksum in zip(
            entries.items(), metadata.pop("checksums").split(), strict=True
        ):
            begin, end = entry["data_offsets"]
            offset = 8 + length + begin
            tensors[name] = Entry(
                entry["dtype"], tuple(entry["shape"]), offset, end - begin, int(checksum, 16)
            )
            position = end
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnusableError("is damaged") from None
    if os.fstat(file.fileno()).st_size != 8 + length + position:
        raise UnusableError("is damaged")
    return Header(metadata, tensors)


def read_tensor(file: FileIO, entry: Entry, parts: Sequence[memoryview] = ()) -> np.ndarray:
    """The bits of a tensor, checked. May run in several threads on one file.

    Args:
        parts: writable memory that the tensor is read into, piece after piece, instead of into an
            array of its own; as many bytes as the tensor has.

    Raises:
        UnusableError: the checksum differs.
    """
    array = np.empty(0, NUMPY[entry.kind])
    if not parts:
        array = np.empty(entry.shape, NUMPY[entry.kind])
        parts = [raw(array)]
    checksum, offset = 0, entry.offset
    for part in parts:
        _read_into(file, part, offset)
        checksum = zlib.crc32(part, checksum)
        offset += part.nbytes
    if checksum != entry.checksum or offset != entry.offset + entry.nbytes:
        raise UnusableError("is damaged")
    return array


def _read_into(file: FileIO, out: memoryview, offset: int | None = None) -> None:
    while out:
        if offset is None:
            done = file.readinto(out[:MAX_IO_BYTES]) or 0
        else:
            done = os.preadv(file.fileno(), [out[:MAX_IO_BYTES]], offset)
            offset += done
        if not done:
            raise UnusableError("is damaged")
        out = out[done:]


def verify(path: Path) -> Header:
    """Read everything and compare every checksum.

    Raises:
        UnusableError: something is wrong.
    """
    with opened(path) as (file, header):
        for entry in header.tensors.values():
            read_tensor(file, entry)
        return header
