"""Safetensors files as MLX arrays, read a few rows at a time.

The format is described in `safetensors_header`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.safetensors_header import (
    HeaderError,
    read_header,
)
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import open_regular, read_exactly

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


class RemoteFile(Protocol):
    """A file that is elsewhere; only its header is here."""

    @property
    def size(self) -> int: ...

    def read(self, out: memoryview, offset: int, tensor: range) -> None:
        """Fill `out` with the bytes from `offset` on.

        Args:
            tensor: all bytes of the tensor that they belong to.

        Raises:
            Qwen35Error, OSError, EOFError: they cannot be fetched.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One tensor of one file.

    Attributes:
        path: the file.
        name: as the file spells it.
        stored_dtype: the format's name of the dtype, such as "BF16".
        shape: as stored.
        offset: of its first byte, counted from the start of the file.
        remote: where its values are, if `path` has the header alone.
    """

    path: Path
    name: str
    stored_dtype: str
    shape: tuple[int, ...]
    offset: int
    remote: RemoteFile | None = None

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
                    if self.remote is None:
                        read_exactly(file, run.data, begin)
                    else:
                        tensor = range(self.offset, self.offset + self.nbytes)
                        self.remote.read(run.data, begin, tensor)
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


def list_tensors(path: Path, remote: RemoteFile | None = None) -> dict[str, FileTensor]:
    """The tensors of a safetensors file by name; only its header is read.

    Args:
        remote: where the values are, if `path` has the header alone.

    Raises:
        Qwen35Error: the file is unreadable, not a safetensors file, truncated, or has a header
            that contradicts itself.
    """
    try:
        with open_regular(path) as file:
            header = read_header(file, size=remote.size if remote else None)
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
        tensor = FileTensor(path, name, entry.dtype, entry.shape, offset, remote)
        if tensor.nbytes != entry.end - entry.begin:
            raise Qwen35Error(
                f"{path}: tensor '{name}' of {entry.dtype} {list(entry.shape)} takes "
                f"{tensor.nbytes} bytes but its header gives it {entry.end - entry.begin}: "
                "fetch the file again"
            )
        tensors[name] = tensor
    return tensors


def read_metadata(path: Path, remote: RemoteFile | None = None) -> Mapping[str, Any]:
    """The metadata of a safetensors file that `list_tensors` accepts; values are not checked."""
    with open_regular(path) as file:
        return read_header(file, size=remote.size if remote else None).metadata
