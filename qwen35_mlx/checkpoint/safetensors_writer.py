"""Safetensors files, written a few rows at a time."""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.safetensors_header import TensorEntry, encode_header
from qwen35_mlx.files import write_all

_CHECK_BYTES = 4 << 20

_WRITABLE = {
    mx.uint8: "U8",
    mx.uint32: "U32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.float32: "F32",
}


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
