"""Safetensors files, read and written a few rows at a time.

The format: a little-endian u64 with the header's length, a JSON header that gives each tensor's
dtype, shape and byte offsets, then the bytes (https://github.com/huggingface/safetensors).
"""

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlx.core as mx
import numpy as np

from qwen35_mlx.errors import Qwen35Error

# The limit of the format's reference implementation.
MAX_HEADER_BYTES = 100_000_000

# macOS refuses a single read or write of 2 GiB or more.
MAX_IO_BYTES = 1 << 30

# What each dtype of the format is read as: numpy holds the bits, MLX views them. Bytes of the
# float-8 types stay uint8: only the layout knows the scales that go with them.
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

_WRITTEN = {
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
        kind: the format's dtype, such as "BF16".
        shape: as stored.
        offset: of its first byte, counted from the start of the file.
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> mx.Dtype:
        """What `read` returns; float-8 tensors come as uint8."""
        return _DTYPES[self.kind][1]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(_DTYPES[self.kind][0]).itemsize

    def read(self, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows [start, stop) of axis 0, and of the file no other bytes.

        Raises:
            Qwen35Error: the file became shorter or unreadable since its header was read.
        """
        if not self.shape:
            return self._read((), 0)
        stop = self.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.shape[0]}")
        row = self.nbytes // max(1, self.shape[0])
        return self._read((stop - start, *self.shape[1:]), start * row)

    def _read(self, shape: tuple[int, ...], skip: int) -> mx.array:
        kind, dtype = _DTYPES[self.kind]
        # In its final shape and element size: MLX counts along an axis in 31 bits, too few for
        # the bytes, or for the elements in a row, of the largest tensors.
        bits: Any = np.empty(shape, kind)
        view = bits.reshape(-1).view(np.uint8).data
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + skip)
                done = 0
                while done < len(view):
                    got = file.readinto(view[done : done + MAX_IO_BYTES])
                    if not got:
                        raise Qwen35Error(
                            f"{self.path} ends inside tensor '{self.name}': fetch it again"
                        )
                    done += got
        except OSError as error:
            raise Qwen35Error(f"cannot read {self.path}: {error.strerror or error}") from error
        array = mx.array(bits)
        array = array if array.dtype == dtype else array.view(dtype)
        mx.eval(array)
        return array


def read_header(path: Path) -> dict[str, FileTensor]:
    """The tensors of a safetensors file by name; no tensor data is read.

    Raises:
        Qwen35Error: not readable, not a safetensors file, truncated, or with a header that
            contradicts itself.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if start == b"version ":
                raise Qwen35Error(
                    f"{path} is a Git LFS pointer, not weights: run `git lfs pull` in its folder"
                )
            length = int.from_bytes(start, "little")
            if len(start) < 8 or (length <= MAX_HEADER_BYTES and 8 + length > size):
                raise Qwen35Error(
                    f"{path} is truncated ({size} bytes, within its header): fetch it again"
                )
            if length > MAX_HEADER_BYTES:
                raise Qwen35Error(
                    f"{path} is not a safetensors file (a header of {length} bytes): fetch it again"
                )
            text = file.read(length)
    except OSError as error:
        raise Qwen35Error(f"cannot read {path}: {error.strerror or error}") from error
    return _parse_header(path, text, data_bytes=size - 8 - length)


def _parse_header(path: Path, text: bytes, data_bytes: int) -> dict[str, FileTensor]:
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise Qwen35Error(
            f"{path} has an unreadable safetensors header ({error}): fetch it again"
        ) from error
    if not isinstance(header, dict):
        raise Qwen35Error(f"{path} has a safetensors header that is no object: fetch it again")
    first = 8 + len(text)
    tensors: dict[str, FileTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape, begin, end = _entry(path, name, entry)
        tensor = FileTensor(path, name, kind, shape, first + begin)
        if tensor.nbytes != end - begin:
            raise Qwen35Error(
                f"{path}: tensor '{name}' of {kind} {list(shape)} takes {tensor.nbytes} bytes but "
                f"its header gives it {end - begin}: fetch the file again"
            )
        if end > data_bytes:
            raise Qwen35Error(
                f"{path} is truncated: tensor '{name}' ends at byte {first + end} of "
                f"{first + data_bytes}: fetch it again"
            )
        tensors[name] = tensor
        if end > begin:
            spans.append((begin, end, name))
    spans.sort()
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise Qwen35Error(
                f"{path}: tensors '{one}' and '{other}' overlap: fetch the file again"
            )
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, first and last byte + 1 of one tensor of the header."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    sound = isinstance(kind, str) and _naturals(shape) and _naturals(offsets)
    if not sound or len(offsets) != 2:
        raise Qwen35Error(f"{path}: the header of tensor '{name}' is damaged: fetch the file again")
    if kind not in _DTYPES:
        raise Qwen35Error(
            f"{path}: tensor '{name}' has the dtype {kind!r}, which is not known here: "
            "use a BF16, F16, F32, FP8 or MLX checkpoint"
        )
    return kind, tuple(shape), offsets[0], offsets[1]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written."""

    name: str
    dtype: mx.Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size


class FileWriter:
    """Writes one safetensors file whose tensors are known by name and shape, not by value yet.

    Each tensor is filled from its first byte on, in pieces of any size; several tensors may be
    filled in turns. Use it as a context manager: leaving it closes the file, and raises
    ValueError if a tensor is not complete.

    Raises:
        OSError: of the file system, such as a full disk.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorSpec], metadata: Mapping[str, str]):
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        begin = 0
        for tensor in tensors:
            header[tensor.name] = {
                "dtype": _WRITTEN[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [begin, begin + tensor.nbytes],
            }
            begin += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        # Spaces bring the first tensor to a multiple of 8 bytes, as the format asks.
        text += b" " * (-len(text) % 8)
        self.path = path
        self.nbytes = 8 + len(text) + begin
        self._specs = {tensor.name: tensor for tensor in tensors}
        self._next = {name: 8 + len(text) + header[name]["data_offsets"][0] for name in self._specs}
        self._end = {name: 8 + len(text) + header[name]["data_offsets"][1] for name in self._specs}
        self._file: FileIO = path.open("xb", buffering=0)
        try:
            self._put(0, memoryview(len(text).to_bytes(8, "little") + text))
        except BaseException:
            self._file.close()
            raise

    def write(self, name: str, piece: mx.array) -> None:
        """Append the elements of `piece`, in row-major order, to the tensor `name`."""
        spec = self._specs[name]
        if piece.dtype != spec.dtype:
            raise ValueError(f"{name} is {spec.dtype}, not {piece.dtype}")
        if self._next[name] + piece.nbytes > self._end[name]:
            raise ValueError(f"{name} is longer than {list(spec.shape)}")
        if not piece.size:
            return
        # Python's buffers know no bfloat16, hence bytes.
        raw = mx.contiguous(piece.reshape(-1)).view(mx.uint8)
        mx.eval(raw)
        self._put(self._next[name], np.asarray(raw).data)
        self._next[name] += piece.nbytes

    def _put(self, offset: int, data: memoryview) -> None:
        self._file.seek(offset)
        done = 0
        while done < len(data):
            done += self._file.write(data[done : done + MAX_IO_BYTES])

    def close(self) -> None:
        """Make the file durable.

        Raises:
            ValueError: a tensor was not written to its end.
        """
        short = [name for name in self._specs if self._next[name] != self._end[name]]
        try:
            if short:
                raise ValueError(f"{self.path}: {short[0]} is not complete")
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
