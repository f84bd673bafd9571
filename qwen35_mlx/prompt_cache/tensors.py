"""Snapshots as named tensors for files, and back, bit by bit."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.cache import DeltaState, HeadSnapshot, Snapshot
from qwen35_mlx.model.kv_cache import KVSnapshot
from qwen35_mlx.prompt_cache import file as snapshot_file

_FILE_DTYPES = {
    mx.int32: "I32",
    mx.uint32: "U32",
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
}
_MLX_DTYPES = {name: dtype for dtype, name in _FILE_DTYPES.items()}
# Unsigned types by their size in bytes: numpy has no bfloat16, so bits are copied as these.
_BITS = {2: mx.uint16, 4: mx.uint32}

# Tensor of the number of rows that the MTP head had at the end of a segment.
HEAD_COUNT = "head.count"
_HEAD_ROWS, _HEAD_HIDDEN = "head.rows.", "head.hidden"

Tensors = Mapping[str, tuple[str, np.ndarray]]
"""tensor name -> dtype of the file format, bits"""
KVLayout = Mapping[str, tuple[str, int, int]]
"""tensor name -> dtype of the file format, heads, width; the tensors are [heads, rows, width]"""


def nbytes(tensors: Tensors) -> int:
    """Bytes of all tensors."""
    return sum(array.nbytes for _, array in tensors.values())


def kv_tensors(snapshot: Snapshot, start: int, ids: Sequence[int]) -> Tensors:
    """Keys and values of every attention layer from position `start` on, and their tokens.

    Those of the MTP head are among them, if the snapshot has its state: a row for each of these
    tokens, or as many as there are, and their number up to the last token.
    """
    arrays = {
        f"layers.{index}.rows.{part}": rows[0]
        for index, layer in enumerate(snapshot.layers)
        if isinstance(layer, KVSnapshot)
        for part, rows in enumerate(layer.rows(start))
    }
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "tokens": ("I32", np.asarray(ids[start:], dtype="<i4"))
    }
    if snapshot.head is not None and (count := snapshot.head.kv.offset):
        rows = snapshot.head.kv.rows(max(count - (len(ids) - start), 0))
        arrays |= {f"{_HEAD_ROWS}{part}": one[0] for part, one in enumerate(rows)}
        tensors[HEAD_COUNT] = ("I32", np.array([count], dtype="<i4"))
    return {**tensors, **_copied(arrays)}


def state_tensors(snapshot: Snapshot) -> Tensors:
    """Recurrent and convolution states of every delta layer, and what the MTP head reads next."""
    arrays: dict[str, mx.array] = {}
    if snapshot.head is not None:
        arrays[_HEAD_HIDDEN] = snapshot.head.hidden[0]
    for index, layer in enumerate(snapshot.layers):
        if isinstance(layer, DeltaState):
            assert layer.conv is not None
            assert layer.recurrent is not None
            arrays[f"layers.{index}.conv"] = layer.conv[0]
            arrays[f"layers.{index}.recurrent"] = layer.recurrent[0]
    return _copied(arrays)


def _copied(arrays: Mapping[str, mx.array]) -> Tensors:
    """Copies of the bits, which any thread may read."""
    bits = {name: array.view(_BITS[array.itemsize]) for name, array in arrays.items()}
    mx.eval(list(bits.values()))
    tensors = {}
    for name, array in bits.items():
        dtype = _FILE_DTYPES[arrays[name].dtype]
        tensors[name] = (dtype, np.array(array).view(snapshot_file.NUMPY[dtype]))
    return tensors


class RestoreBuffer:
    """Keys and values of a whole conversation in MLX's own memory, filled by any threads.

    Args:
        parts: layouts of tensors, with their number of rows.
        threads: how many allocate the memory; see `allocate`.
    """

    def __init__(self, parts: Sequence[tuple[KVLayout, int]], threads: int):
        streams = itertools.cycle(_zeroing_streams(threads))
        self._dtypes: dict[str, str] = {}
        self._bits: dict[str, mx.array] = {}
        for layout, rows in parts:
            # There is room for a few more turns: otherwise the next one begins by copying all.
            capacity = -(-(rows + rows // 16 + 256) // 256) * 256
            for name, (dtype, heads, width) in layout.items():
                bits = _BITS[snapshot_file.NUMPY[dtype].itemsize]
                shape = (1, heads, capacity, width)
                self._dtypes[name] = dtype
                self._bits[name] = mx.zeros(shape, bits, stream=next(streams))
        # Evaluated one by one: arrays of one evaluation become available only all together.
        for bits in self._bits.values():
            mx.async_eval(bits)
        self._memory: dict[str, Future[np.ndarray]] = {name: Future() for name in self._bits}

    def allocate(self) -> None:
        """Wait until all memory is there; tensors that are there can be filled meanwhile."""
        try:
            for name, bits in self._bits.items():
                mx.eval(bits)
                self._memory[name].set_result(np.array(bits, copy=False))
        finally:
            for memory in self._memory.values():
                memory.cancel()  # after an error, no thread waits for what does not come

    def rows(self, name: str, start: int, end: int) -> list[memoryview]:
        """Writable memory of rows `start` to `end` of a tensor, one piece per head.

        Waits for `allocate`, which runs in another thread.
        """
        rows = self._memory[name].result()[0, :, start:end]
        return [snapshot_file.byte_view(head) for head in rows]

    def snapshot(self, state: Tensors, end: int, head_rows: int) -> Snapshot:
        """The snapshot, once every row is filled. The buffer is empty afterwards.

        Args:
            state: recurrent and convolution states at the end.
            end: number of tokens.
            head_rows: of the MTP head; 0 restores none.
        """
        # MLX writes into an array in place only if nothing else holds its memory.
        self._memory.clear()
        arrays = {
            name: bits.view(_MLX_DTYPES[self._dtypes[name]]) for name, bits in self._bits.items()
        }
        self._bits.clear()
        for name, (dtype, array) in state.items():
            bits = mx.array(array.view(f"u{array.itemsize}"))
            arrays[name] = bits.view(_MLX_DTYPES[dtype])[None]
        mx.eval(arrays)
        layers: dict[int, dict[str, mx.array]] = {}
        for name, array in arrays.items():
            if name.startswith("layers."):
                _, index, part = name.split(".", 2)
                layers.setdefault(int(index), {})[part] = array
        restored: list[KVSnapshot | DeltaState] = []
        for _, parts in sorted(layers.items()):
            if "recurrent" in parts:
                restored.append(DeltaState(parts["conv"], parts["recurrent"]))
            else:
                rows = tuple(parts[f"rows.{i}"] for i in range(len(parts)))
                restored.append(KVSnapshot.of_rows(rows, end))
        head = _head_snapshot(arrays, head_rows) if head_rows else None
        return Snapshot(end, tuple(restored), head)


def _head_snapshot(arrays: Mapping[str, mx.array], count: int) -> HeadSnapshot | None:
    """The MTP head's part of restored arrays; None if what it reads next is missing."""
    hidden = arrays.get(_HEAD_HIDDEN)
    names = sorted(name for name in arrays if name.startswith(_HEAD_ROWS))
    rows = tuple(arrays[name] for name in names)
    return None if hidden is None else HeadSnapshot(KVSnapshot.of_rows(rows, count), hidden)


@cache
def _zeroing_streams(count: int) -> list[mx.Stream]:
    """Streams that zero new memory. Zeroing maps its pages, which takes one thread seconds.

    They are on the CPU whatever the device: memory allocated by a GPU with its own would be moved
    here and back. They are made once, since MLX never ends the thread of a stream.
    """
    return [mx.new_thread_unsafe_stream(mx.cpu) for _ in range(count)]
