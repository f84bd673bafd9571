"""Snapshots as named tensors for files, and back, bit by bit."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.cache import DeltaState, KVSnapshot, Snapshot
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

Tensors = Mapping[str, tuple[str, np.ndarray]]
"""tensor name -> dtype of the file format, bits"""
KVLayout = Mapping[str, tuple[str, int, int]]
"""tensor name -> dtype of the file format, heads, width; the tensors are [heads, rows, width]"""


def nbytes(tensors: Tensors) -> int:
    """Bytes of all tensors."""
    return sum(array.nbytes for _, array in tensors.values())


def kv_tensors(snapshot: Snapshot, start: int, ids: Sequence[int]) -> Tensors:
    """Keys and values of every attention layer from position `start` on, and their tokens."""
    arrays = {
        f"layers.{index}.rows.{part}": rows[0]
        for index, layer in enumerate(snapshot.layers)
        if isinstance(layer, KVSnapshot)
        for part, rows in enumerate(layer.rows(start))
    }
    tokens = np.asarray(ids[start:], dtype="<i4")
    return {"tokens": ("I32", tokens), **_copied(arrays)}


def state_tensors(snapshot: Snapshot) -> Tensors:
    """Recurrent and convolution states of every delta layer."""
    arrays: dict[str, mx.array] = {}
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
        layout: of the tensors.
        end: number of rows.
        threads: how many allocate the memory; see `allocate`.
    """

    def __init__(self, layout: KVLayout, end: int, threads: int):
        self.layout = layout
        self._end = end
        # There is room for a few more turns: otherwise the next one begins by copying everything.
        capacity = -(-(end + end // 16 + 256) // 256) * 256
        streams = itertools.cycle(_zeroing_streams(threads))
        self._bits = {
            name: mx.zeros(
                (1, heads, capacity, width),
                _BITS[snapshot_file.NUMPY[dtype].itemsize],
                stream=next(streams),
            )
            for name, (dtype, heads, width) in layout.items()
        }
        # Evaluated one by one: arrays of one evaluation become available only all together.
        for bits in self._bits.values():
            mx.async_eval(bits)
        self._memory: dict[str, Future[np.ndarray]] = {name: Future() for name in layout}

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

    def snapshot(self, state: Tensors) -> Snapshot:
        """The snapshot, once every row is filled. The buffer is empty afterwards.

        Args:
            state: recurrent and convolution states at the end.
        """
        # MLX writes into an array in place only if nothing else holds its memory.
        self._memory.clear()
        arrays = {
            name: bits.view(_MLX_DTYPES[self.layout[name][0]]) for name, bits in self._bits.items()
        }
        self._bits.clear()
        for name, (dtype, array) in state.items():
            bits = mx.array(array.view(f"u{array.itemsize}"))
            arrays[name] = bits.view(_MLX_DTYPES[dtype])[None]
        mx.eval(arrays)
        layers: dict[int, dict[str, mx.array]] = {}
        for name, array in arrays.items():
            _, index, part = name.split(".", 2)
            layers.setdefault(int(index), {})[part] = array
        restored: list[KVSnapshot | DeltaState] = []
        for _, parts in sorted(layers.items()):
            if "recurrent" in parts:
                restored.append(DeltaState(parts["conv"], parts["recurrent"]))
            else:
                rows = tuple(parts[f"rows.{i}"] for i in range(len(parts)))
                restored.append(KVSnapshot.of_rows(rows, self._end))
        return Snapshot(self._end, tuple(restored))


@cache
def _zeroing_streams(count: int) -> list[mx.Stream]:
    """Streams that zero new memory. Zeroing maps its pages, which takes one thread seconds.

    They are on the CPU whatever the device: memory allocated by a GPU with its own would be moved
    here and back. They are made once, since MLX never ends the thread of a stream.
    """
    return [mx.new_thread_unsafe_stream(mx.cpu) for _ in range(count)]
