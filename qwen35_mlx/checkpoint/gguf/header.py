"""The header of one GGUF file, parsed and checked in this module only. No MLX, no numpy.

The format (docs/gguf.md of https://github.com/ggml-org/ggml), little-endian: the magic, a version,
the numbers of tensors and of metadata entries, the entries (name, type, value), the descriptions
of the tensors (name, sizes, type, offset), and the bytes of the tensors from the next multiple of
the alignment on. Versions 2 and 3 are read; they differ only in that 3 may be big-endian.
"""

import itertools
import math
import os
import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import open_regular, read_exactly
from qwen35_mlx.untrusted_json import MAX_SIZE

VOCABULARY = "tokenizer.ggml.tokens"

# Published headers have up to 20 MB, 250,000 tokens and as many merges, and 2,000 tensors.
MAX_HEADER_BYTES = 64 << 20
MAX_ENTRIES = MAX_TENSORS = 1 << 16
MAX_STRINGS = 3_000_000
MAX_NAME = 512
# Of ggml itself.
MAX_RANK = 4

# The number of bytes that are read at first: of a whole header, and up to the vocabulary.
_FIRST_BYTES, _FIRST_SETTINGS = 1 << 20, 1 << 12
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20

_NUMBERS = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor of one GGUF file.

    Attributes:
        path: the file.
        name: as the file spells it.
        stored_dtype: ggml's name of the type, such as "Q4_K".
        shape: row-major, [..., rows, columns]: the reverse of ggml's order.
        offset: of its first byte, counted from the start of the file.
        block: elements of a row that are stored together, and the bytes that they take.
    """

    path: Path
    name: str
    stored_dtype: str
    shape: tuple[int, ...]
    offset: int
    block: tuple[int, int]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        elements, length = self.block
        return self.size // elements * length


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """A checked header.

    Attributes:
        metadata: by name: int, float, bool, str, list[str], or an `array` of numbers (of bools
            as 0 and 1).
        tensors: by name, in the order of the file. Their bytes lie in the file, without overlap.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


@cache
def _types() -> Mapping[int, tuple[str, tuple[int, int]]]:
    """ggml's types by number: name and block, as in `GGUFTensor.block`."""
    # Imported here: it loads numpy, which a list of models needs only if there is a GGUF file.
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): (kind.name, block) for kind, block in GGML_QUANT_SIZES.items()}


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of one GGUF file.

    Raises:
        Qwen35Error: the file is unreadable, not GGUF, truncated, or contradicts itself.
    """
    return _read(path, _FIRST_BYTES, _parse)


def read_settings(path: Path) -> dict[str, Any]:
    """The metadata before the vocabulary, which llama.cpp writes after the sizes of the network.

    `VOCABULARY` is in it with the number of its tokens. Little else of the file is read.

    Raises:
        Qwen35Error: as `read_header`, for what is read.
    """
    return _read(path, _FIRST_SETTINGS, _parse_settings)


def _read(path: Path, first_bytes: int, parse: "Callable[[_Cursor], _Parsed]") -> "_Parsed":
    try:
        with open_regular(path) as file:
            return parse(_Cursor(path, file, first_bytes))
    except OSError as error:
        raise Qwen35Error(f"cannot read {path}: {error.strerror or error}") from error
    except EOFError:
        raise Qwen35Error(f"{path} became shorter while its header was read: try again") from None


class _Cursor:
    """A position in the first bytes of a file, more of which are read as they are needed."""

    def __init__(self, path: Path, file: FileIO, first_bytes: int):
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        self.strings = 0
        self._file = file
        self._first_bytes = first_bytes
        self._bytes = bytearray()

    def error(self, problem: str, advice: str = "fetch it again") -> Qwen35Error:
        """The error of this file: "is truncated", "has a bad header"."""
        return Qwen35Error(f"{self.path} {problem}: {advice}")

    def take(self, count: int) -> bytearray:
        """The next bytes; the position moves past them."""
        start, self.at = self.at, self.at + count
        if self.at > len(self._bytes):
            self._read_to(self.at)
        return self._bytes[start : self.at]

    def _read_to(self, end: int) -> None:
        if end > self.size:
            raise self.error(f"is truncated ({self.size} bytes, within its header)")
        if end > MAX_HEADER_BYTES:
            raise self.error(
                f"has a header of more than {MAX_HEADER_BYTES >> 20} MiB", "choose another file"
            )
        have = len(self._bytes)
        length = min(max(self._first_bytes, 2 * have, end), self.size, MAX_HEADER_BYTES)
        self._bytes += bytes(length - have)
        read_exactly(self._file, memoryview(self._bytes)[have:], have)

    def number(self, code: str) -> Any:
        """A number of a type of `struct`."""
        if code == "?":
            return self.take(1)[0] != 0
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        """A string: its length in bytes, then UTF-8."""
        return self._texts(1)[0]

    def value(self, kind: int) -> Any:
        """A value of metadata of one of the format's types."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        raise self.error(f"has a bad header: a value of the unknown type {kind}")

    def _texts(self, count: int) -> list[str]:
        """Strings one after the other. A vocabulary has half a million: no call for each."""
        found: list[str] = []
        data, have, at = self._bytes, len(self._bytes), self.at
        for _ in range(count):
            start = at + 8
            if start > have:
                self._read_to(start)
                have = len(data)
            at = start + _LENGTH.unpack_from(data, at)[0]
            if at > have:
                self._read_to(at)
                have = len(data)
            try:
                found.append(data[start:at].decode())
            except UnicodeDecodeError:
                raise self.error("has a bad header: a text that is not UTF-8") from None
        self.at = at
        return found

    def _array(self) -> list[str] | array:
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            self.strings += count
            if self.strings > MAX_STRINGS:
                raise self.error(f"has a bad header: more than {MAX_STRINGS:,} texts")
            return self._texts(count)
        if kind not in _NUMBERS:
            raise self.error(f"has a bad header: an array of the type {kind}")
        numbers = array(_NUMBERS[kind].replace("?", "B"))
        numbers.frombytes(self.take(count * numbers.itemsize))
        return numbers


def _parse_settings(cursor: _Cursor) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(_counts(cursor)[1]):
        name = _entry_name(cursor, metadata)
        kind = cursor.number("I")
        if name == VOCABULARY and kind == _ARRAY:
            cursor.number("I")
            metadata[name] = cursor.number("Q")
            break
        metadata[name] = cursor.value(kind)
    return metadata


def _parse(cursor: _Cursor) -> GGUFHeader:
    tensor_count, entry_count = _counts(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        name = _entry_name(cursor, metadata)
        metadata[name] = cursor.value(cursor.number("I"))
    descriptions = [_description(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if (
        type(alignment) is not int
        or not 0 < alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise cursor.error(f"has a bad header: 'general.alignment' is {shown(alignment)}")
    data_start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, kind, shape, offset in descriptions:
        if name in tensors:
            raise cursor.error(f"has a bad header: it has the tensor '{name}' twice")
        if offset % alignment:
            raise cursor.error(f"has a bad header: tensor '{name}' is not aligned")
        tensors[name] = _tensor(cursor, name, kind, shape, data_start + offset)
    _check_ranges(cursor, tensors)
    return GGUFHeader(metadata, tensors)


def _check_start(cursor: _Cursor) -> None:
    """Check the magic and the version."""
    magic = bytes(cursor.take(min(4, cursor.size)))
    if magic == b"vers":
        raise cursor.error("is a Git LFS pointer, not weights", "run `git lfs pull` in its folder")
    if magic != b"GGUF":
        raise cursor.error("is not a GGUF file")
    version = cursor.number("I")
    if version & 0xFFFF == 0 and version:
        raise cursor.error("is a big-endian GGUF file", "choose a little-endian one")
    if version not in (2, 3):
        raise cursor.error(
            f"is a GGUF file of version {version}, and versions 2 and 3 are read",
            "choose another file",
        )


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and of metadata entries, behind the magic and the version."""
    _check_start(cursor)
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
        raise cursor.error(f"has a bad header: {tensors:,} tensors and {entries:,} entries")
    return tensors, entries


def _entry_name(cursor: _Cursor, metadata: Mapping[str, Any]) -> str:
    name = _name(cursor)
    if name in metadata:
        raise cursor.error(f"has a bad header: it has '{name}' twice")
    return name


def _name(cursor: _Cursor) -> str:
    name = cursor.text()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise cursor.error(f"has a bad header: {shown(name)} is no name")
    return name


def _description(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    """Name, number of the type, shape (row-major), and offset from the first tensor."""
    name = _name(cursor)
    rank = cursor.number("I")
    if rank > MAX_RANK:
        raise cursor.error(f"has a bad header: tensor '{name}' has {rank} axes")
    sizes = [cursor.number("Q") for _ in range(rank)]
    if any(size > MAX_SIZE for size in sizes):
        raise cursor.error(f"has a bad header: tensor '{name}' has the sizes {shown(sizes)}")
    return name, cursor.number("I"), tuple(reversed(sizes)), cursor.number("Q")


def _tensor(
    cursor: _Cursor, name: str, kind: int, shape: tuple[int, ...], offset: int
) -> GGUFTensor:
    if kind not in _types():
        raise cursor.error(
            f"has tensor '{name}' in ggml's type {kind}, which is not known here",
            "choose a file of another quantisation, such as Q8_0 or Q4_K_M",
        )
    dtype, block = _types()[kind]
    columns = shape[-1] if shape else 1
    if columns % block[0]:
        raise cursor.error(
            f"has a bad header: a row of {columns} does not divide into blocks of {block[0]} "
            f"({dtype}) in tensor '{name}'"
        )
    tensor = GGUFTensor(cursor.path, name, dtype, shape, offset, block)
    if offset + tensor.nbytes > cursor.size:
        raise cursor.error(
            f"is truncated: tensor '{name}' ends at byte {offset + tensor.nbytes} of {cursor.size}"
        )
    return tensor


def _check_ranges(cursor: _Cursor, tensors: Mapping[str, GGUFTensor]) -> None:
    filled = sorted((t for t in tensors.values() if t.nbytes), key=lambda tensor: tensor.offset)
    for tensor, following in itertools.pairwise(filled):
        if following.offset < tensor.offset + tensor.nbytes:
            raise cursor.error(
                f"has a bad header: tensors '{tensor.name}' and '{following.name}' overlap"
            )
