"""Safetensors files as MLX arrays, read and written a few rows at a time.

The format is described in `safetensors_header`.
"""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.safetensors_header import (
    HeaderError,
    TensorEntry,
    encode_header,
    read_header,
)
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import open_regular, read_exactly, write_all

# For each dtype of the format, the numpy type that holds its bits and the MLX dtype they are viewed
# as. Float-8 stays uint8: its scales are another tensor, found by the checkpoint's layout.
_DTYPES: dict[str, tuple[type[np.generic], mx.Dtype]] = {
    "BOOL": (np.bool_, mx.bool_),
    "U8": (np.uint8, mx.uint8),
    "I8": (np.int8, mx.int8),
    "U16": (np.uint16, mx.uint16),
    "I16": (np.int16, mx.int16),
    "U32": (np.uint32, mx.uint32),
    "I32": (np.int32, mx.int32),
    "U64": (np.uint64, mx.uint64),
    "I64": (np.int64, mx.int64),
    "F16": (np.float16, mx.float16),
    "BF16": (np.uint16, mx.bfloat16),
    "F32": (np.float32, mx.float32),
    "F8_E4M3": (np.uint8, mx.uint8),
    "F8_E5M2": (np.uint8, mx.uint8),
    "F8_E8M0": (np.uint8, mx.uint8),
}

_CHECK_BYTES = 4 << 20

_WRITABLE = {
    mx.uint8: "U8",
    mx.uint32: "U32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.float32: "F32",
}


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One tensor of one file.

    Attributes:
        path: the file.
        name: as the file spells it.
        stored_dtype: the format's name of the dtype, such as "BF16".
        shape: as stored.
        offset: of its first byte, counted from the start of the file.
    """

    path: Path
    name: str
    stored_dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that `read` returns; uint8 for float-8 tensors."""
        return _DTYPES[self.stored_dtype][1]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(_DTYPES[self.stored_dtype][0]).itemsize

    def __getitem__(self, index: int) -> "FileTensor":
        """One of the tensors that are stacked in this one on its first axis."""
        shape = self.shape[1:]
        return replace(self, shape=shape, offset=self.offset + index * self.nbytes // self.shape[0])

    def read(self, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows [start, stop) of axis 0, evaluated; no other bytes of the file are read.

        Raises:
            Qwen35Error: the file has become shorter or unreadable since its header was read.
        """
        if not self.shape:
            return self._read((), 0)
        stop = self.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.shape[0]}")
        row_bytes = self.nbytes // max(1, self.shape[0])
        return self._read((stop - start, *self.shape[1:]), start * row_bytes)

    def read_columns(self, start: int, stop: int) -> mx.array:
        """Columns [start, stop) of a tensor of two axes, evaluated; no other bytes are read.

        Raises:
            Qwen35Error: the file has become shorter or unreadable since its header was read.
        """
        rows, columns = self.shape
        if not 0 <= start <= stop <= columns:
            raise IndexError(f"columns {start}:{stop} of {self.name}, which has {columns}")
        if stop - start == columns:
            return self.read()
        itemsize = self.nbytes // max(1, self.size)
        return self._read((rows, stop - start), start * itemsize, row_stride=columns * itemsize)

    def _read(self, shape: tuple[int, ...], skip: int, row_stride: int | None = None) -> mx.array:
        """The elements from byte `skip` of the tensor on that fill `shape`.

        Args:
            row_stride: bytes from one row to the next; None if the rows follow each other.
        """
        bits_type, dtype = _DTYPES[self.stored_dtype]
        # In its final shape and element size: MLX counts along an axis in 31 bits, too few for
        # the bytes, or for the elements in a row, of the largest tensors.
        bits: Any = np.empty(shape, bits_type)
        count = 1 if row_stride is None else shape[0]
        runs = bits.reshape(count, bits.size // max(1, count)).view(np.uint8)
        try:
            with open_regular(self.path) as file:
                for number, run in enumerate(runs):
                    begin = self.offset + skip + number * (row_stride or 0)
                    read_exactly(file, run.data, begin)
        except EOFError:
            raise Qwen35Error(
                f"{self.path} ends inside tensor '{self.name}': fetch it again"
            ) from None
        except OSError as error:
            raise Qwen35Error(f"cannot read {self.path}: {error.strerror or error}") from error
        array = mx.array(bits)
        array = array if array.dtype == dtype else array.view(dtype)
        mx.eval(array)
        return array


def list_tensors(path: Path) -> dict[str, FileTensor]:
    """The tensors of a safetensors file by name; only its header is read.

    Raises:
        Qwen35Error: the file is unreadable, not a safetensors file, truncated, or has a header
            that contradicts itself.
    """
    try:
        with open_regular(path) as file:
            header = read_header(file)
    except HeaderError as error:
        raise Qwen35Error(f"{path} {error}: {error.advice}") from error
    except OSError as error:
        raise Qwen35Error(f"cannot read {path}: {error.strerror or error}") from error
    tensors: dict[str, FileTensor] = {}
    for name, entry in header.tensors.items():
        if entry.dtype not in _DTYPES:
            raise Qwen35Error(
                f"{path}: tensor '{name}' has the dtype {shown(entry.dtype)}, which is not known "
                "here: use a BF16, F16, F32, FP8 or MLX checkpoint"
            )
        offset = header.data_start + entry.begin
        tensor = FileTensor(path, name, entry.dtype, entry.shape, offset)
        if tensor.nbytes != entry.end - entry.begin:
            raise Qwen35Error(
                f"{path}: tensor '{name}' of {entry.dtype} {list(entry.shape)} takes "
                f"{tensor.nbytes} bytes but its header gives it {entry.end - entry.begin}: "
                "fetch the file again"
            )
        tensors[name] = tensor
    return tensors


def read_metadata(path: Path) -> Mapping[str, Any]:
    """The metadata of a safetensors file that `list_tensors` accepts; values are not checked."""
    with open_regular(path) as file:
        return read_header(file).metadata


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written, before its values are known."""

    name: str
    dtype: mx.Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size


class FileWriter:
    """Writes one safetensors file whose tensors are known by name and shape, but not yet by value.

    Each tensor is filled from its first byte on, in chunks of any size; several tensors may be
    filled in turns. Use it as a context manager: leaving it closes the file, and raises
    ValueError if a tensor is not complete.

    Args:
        path: of a new file, or of one that an interrupted writer left.
        tensors: in the order of the file.
        metadata: text by name.
        checksums: of tensors that the interrupted writer completed, as `checksum` gave them. Those
            whose bytes are intact are complete.

    Attributes:
        nbytes: the size of the finished file.

    Raises:
        FileExistsError: there is a file of that name, and no checksums are given.
        OSError: from the file system, such as a full disk.
    """

    def __init__(
        self,
        path: Path,
        tensors: Sequence[TensorSpec],
        metadata: Mapping[str, str],
        checksums: Mapping[str, int] | None = None,
    ):
        entries: dict[str, TensorEntry] = {}
        begin = 0
        for tensor in tensors:
            end = begin + tensor.nbytes
            entries[tensor.name] = TensorEntry(_WRITABLE[tensor.dtype], tensor.shape, begin, end)
            begin = end
        text = encode_header(metadata, entries, separators=(",", ":"))
        start = len(text).to_bytes(8, "little") + text
        self.path = path
        self.nbytes = len(start) + begin
        self._specs = {tensor.name: tensor for tensor in tensors}
        self._begin = {name: len(start) + entry.begin for name, entry in entries.items()}
        self._end = {name: len(start) + entry.end for name, entry in entries.items()}
        self._next = dict(self._begin)
        self._checksums = dict.fromkeys(entries, 0)
        self._file = self._open(checksums is not None)
        try:
            if checksums and os.pread(self._file.fileno(), len(start), 0) == start:
                self._find_complete(checksums)
            else:
                self._file.truncate(0)
                write_all(self._file, memoryview(start))
        except BaseException:
            self._file.close()
            raise

    def _open(self, resume: bool) -> FileIO:
        try:
            return self.path.open("xb+", buffering=0)
        except FileExistsError:
            if not resume:
                raise
            return self.path.open("rb+", buffering=0)

    def _find_complete(self, checksums: Mapping[str, int]) -> None:
        for name, checksum in checksums.items():
            if name in self._specs and self._stored_checksum(name) == checksum:
                self._next[name] = self._end[name]
                self._checksums[name] = checksum

    def _stored_checksum(self, name: str) -> int:
        checksum, at, end = 0, self._begin[name], self._end[name]
        while at < end:
            data = os.pread(self._file.fileno(), min(_CHECK_BYTES, end - at), at)
            if not data:
                return -1
            checksum = zlib.crc32(data, checksum)
            at += len(data)
        return checksum

    def is_complete(self, name: str) -> bool:
        """Whether a tensor is written to its end."""
        return self._next[name] == self._end[name]

    def restart(self, name: str) -> None:
        """Write a tensor from its first byte on again."""
        self._next[name], self._checksums[name] = self._begin[name], 0

    def checksum(self, name: str) -> int:
        """The CRC-32 of what is written of a tensor."""
        return self._checksums[name]

    def write(self, name: str, chunk: mx.array) -> None:
        """Append the elements of `chunk`, in row-major order, to the tensor `name`.

        Raises:
            ValueError: `chunk` has another dtype than the tensor, or does not fit into it.
        """
        spec = self._specs[name]
        if chunk.dtype != spec.dtype:
            raise ValueError(f"{name} is {spec.dtype}, not {chunk.dtype}")
        if self._next[name] + chunk.nbytes > self._end[name]:
            raise ValueError(f"{name} is longer than {list(spec.shape)}")
        if not chunk.size:
            return
        # Python's buffer protocol has no bfloat16, hence bytes.
        data = mx.contiguous(chunk.reshape(-1)).view(mx.uint8)
        mx.eval(data)
        view = np.asarray(data).data
        self._file.seek(self._next[name])
        write_all(self._file, view)
        self._next[name] += chunk.nbytes
        self._checksums[name] = zlib.crc32(view, self._checksums[name])

    def close(self) -> None:
        """Wait until the file is on disk, and close it.

        Raises:
            ValueError: a tensor was not written to its end.
        """
        incomplete = [name for name in self._specs if not self.is_complete(name)]
        try:
            if incomplete:
                raise ValueError(f"{self.path}: {incomplete[0]} is not complete")
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.close()
        else:
            self._file.close()
