"""Rows of a GGUF tensor: their blocks as bytes, and their values.

A row is a sequence of blocks; a block is some neighbours with what they share, such as a scale. The
types and their blocks are ggml's (ggml/src/ggml-common.h of https://github.com/ggml-org/ggml);
`gguf.quants` turns blocks into values.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_mlx.checkpoint.gguf.header import GGUFTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular, read_exactly

Runs = tuple[tuple[int, int], ...]

# Elements that a thread computes at a time.
CHUNK_ELEMENTS = 1 << 20
_THREADS = 8


@dataclass(frozen=True, slots=True)
class TiledHeads:
    """Value heads in ggml's order, which repeats the key heads: head j of key head k is at
    j * key_heads + k. In the order of the model it is at k * per_key + j.

    Attributes:
        key_heads: key heads.
        per_key: value heads of one key head.
        width: rows or columns of a head.
    """

    key_heads: int
    per_key: int
    width: int

    def runs(self, first: int = 0) -> Runs:
        """Where the heads lie, in the order of the model, if the first row is `first`."""
        return tuple(
            (first + (j * self.key_heads + k) * self.width, self.width)
            for k in range(self.key_heads)
            for j in range(self.per_key)
        )

    def sort(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, heads * anything], each with its heads in the order of the model."""
        width = rows.shape[1] // (self.per_key * self.key_heads)
        heads = rows.reshape(len(rows), self.per_key, self.key_heads, width)
        return heads.swapaxes(1, 2).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of one tensor, in the order of the model.

    Attributes:
        tensor: seen as [rows, columns].
        columns: elements of a row.
        runs: where the rows lie: (first row, number of rows), one run after the other.
        heads: the order of the columns; None if they are in the order of the model.
        scale: a float32 tensor that the values are multiplied by: one number, or one for each of
            equally many rows.
    """

    tensor: GGUFTensor
    columns: int
    runs: Runs
    heads: TiledHeads | None = None
    scale: GGUFTensor | None = None

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(count for _, count in self.runs)

    @property
    def heads_are_whole_blocks(self) -> bool:
        """Whether sorting the heads of a row moves whole blocks."""
        return self.heads is None or self.heads.width % self.tensor.block[0] == 0

    def blocks(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop): uint8 [rows, blocks of a row, bytes of a block].

        The heads of a row are sorted if they are whole blocks.

        Raises:
            Qwen35Error: the file has become shorter or unreadable since its header was read.
        """
        elements, length = self.tensor.block
        rows = np.empty((stop - start, self.columns // elements * length), np.uint8)
        _read(self.tensor, _within(self.runs, start, stop), rows)
        if self.heads is not None and self.heads_are_whole_blocks:
            rows = self.heads.sort(rows)
        return rows.reshape(stop - start, self.columns // elements, length)

    def values(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop): float32 [rows, columns].

        Raises:
            Qwen35Error: as `blocks`.
        """
        if stop == start:
            return np.empty((0, self.columns), np.float32)
        blocks = self.blocks(start, stop).reshape(stop - start, -1)
        with np.errstate(all="ignore"):  # of what is not finite
            values = quants.dequantize(blocks, GGMLQuantizationType[self.tensor.stored_dtype])
            values = values.reshape(-1, self.columns)
            if self.scale is not None:
                values = values * self._scales(start, stop)
        if self.heads is not None and not self.heads_are_whole_blocks:
            values = self.heads.sort(values)
        return values

    def _scales(self, start: int, stop: int) -> np.ndarray:
        """The factor of each row, float32 [rows, 1]."""
        assert self.scale is not None
        stored = StoredRows(self.scale, 1, ((0, self.scale.size),))
        rows_each = self.count // self.scale.size
        first, last = start // rows_each, -(-stop // rows_each)
        scales = np.repeat(stored.values(first, last), rows_each, axis=0)
        return scales[start - first * rows_each :][: stop - start]


def in_chunks(
    rows: StoredRows, start: int, stop: int, make: Callable[[int, int], Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """What `make` returns for rows [start, stop), arrays [rows, any], made from a few at a time.

    What is computed on the way is then never as large as a tensor, and all processors compute.
    """
    step = max(1, CHUNK_ELEMENTS // max(rows.columns, 1))
    first = make(start, min(start + step, stop))
    if stop - start <= step:
        return list(first)
    found = [np.empty((stop - start, *part.shape[1:]), part.dtype) for part in first]

    def fill(at: int, made: Sequence[np.ndarray]) -> None:
        for whole, part in zip(found, made, strict=True):
            whole[at - start : at - start + len(part)] = part

    fill(start, first)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
        # A list, so that errors are raised here.
        list(pool.map(lambda at: fill(at, make(at, min(at + step, stop))),
                      range(start + step, stop, step)))  # fmt: skip
    return found


def _within(runs: Runs, start: int, stop: int) -> Runs:
    """Where rows [start, stop) of `runs` lie; neighbours are one run."""
    found: list[tuple[int, int]] = []
    before = 0
    for first, count in runs:
        skip, end = max(start - before, 0), min(stop - before, count)
        before += count
        if skip >= end:
            continue
        if found and sum(found[-1]) == first + skip:
            found[-1] = (found[-1][0], found[-1][1] + end - skip)
        else:
            found.append((first + skip, end - skip))
    return tuple(found)


def _read(tensor: GGUFTensor, runs: Runs, rows: np.ndarray) -> None:
    """Fill uint8 `rows` with the rows of `runs`."""
    out, row_bytes = rows.reshape(-1).data, rows.shape[1]
    try:
        with open_regular(tensor.path) as file:
            for first, count in runs:
                read_exactly(file, out[: count * row_bytes], tensor.offset + first * row_bytes)
                out = out[count * row_bytes :]
    except EOFError:
        raise Qwen35Error(
            f"{tensor.path} ends inside tensor '{tensor.name}': fetch it again"
        ) from None
    except OSError as error:
        raise Qwen35Error(f"cannot read {tensor.path}: {error.strerror or error}") from error


# Types whose elements are stored as they are, by the numpy type that holds their bits.
_PLAIN: Mapping[str, tuple[type[np.generic], mx.Dtype]] = {
    "F32": (np.float32, mx.float32),
    "F16": (np.float16, mx.float16),
    "BF16": (np.uint16, mx.bfloat16),
}


@cache
def is_readable(stored_dtype: str) -> bool:
    """Whether the values of this type of ggml are known."""
    kind = GGMLQuantizationType[stored_dtype]
    block = np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        quants.dequantize(block, kind)
    except NotImplementedError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class BlockReader:
    """A tensor of the model as plain values: F16 and BF16 as stored, all else in float32.

    Attributes:
        rows: its rows; `shape` has as many elements.
        is_decay: the file holds -exp(A_log); read as A_log.
    """

    rows: StoredRows
    shape: tuple[int, ...]
    is_decay: bool = False

    @property
    def file(self) -> GGUFTensor:
        return self.rows.tensor

    @property
    def _is_plain(self) -> bool:
        rows = self.rows
        return (
            self.file.stored_dtype in _PLAIN
            and rows.heads_are_whole_blocks
            and rows.scale is None
            and not self.is_decay
        )

    @property
    def dtype(self) -> mx.Dtype:
        return _PLAIN[self.file.stored_dtype][1] if self._is_plain else mx.float32

    def read(self, start: int, stop: int) -> mx.array:
        """Rows [start, stop) of the first axis, evaluated; only their bytes are read.

        Raises:
            Qwen35Error: the file cannot be read, or its decay is not negative.
        """
        each = self.rows.count // max(self.shape[0], 1)
        first, last = start * each, stop * each
        if self._is_plain:
            bits, dtype = _PLAIN[self.file.stored_dtype]
            elements: Any = self.rows.blocks(first, last).view(bits)
            array = mx.array(elements)
            array = array if array.dtype == dtype else array.view(dtype)
        else:
            (values,) = in_chunks(self.rows, first, last, lambda i, j: [self._values(i, j)])
            array = mx.array(values)
        array = array.reshape(stop - start, *self.shape[1:])
        mx.eval(array)
        return array

    def _values(self, start: int, stop: int) -> np.ndarray:
        values = self.rows.values(start, stop)
        if not self.is_decay:
            return values
        if not (values <= 0).all():
            raise Qwen35Error(
                f"{self.file.path}: tensor '{self.file.name}' has a value that is not negative: "
                "fetch the file again"
            )
        with np.errstate(divide="ignore"):  # -exp(A_log) may be too small for float32
            return np.log(-values.astype(np.float64)).astype(np.float32)
