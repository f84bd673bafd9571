"""What a cache holds as named tensors for files, and back, to the last bit."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.cache import DeltaState, KVSnapshot, Snapshot
from qwen35_mlx.prompt_cache import file as state_file

_KINDS = {
    mx.int32: "I32",
    mx.uint32: "U32",
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
}
_DTYPES = {kind: dtype for dtype, kind in _KINDS.items()}
_BITS = {2: mx.uint16, 4: mx.uint32}

# By name, the file format's dtype and the bits.
Tensors = Mapping[str, tuple[str, np.ndarray]]
# Of rows, whatever their number: by name, the file format's dtype, the heads and the width.
Layout = Mapping[str, tuple[str, int, int]]


def size(tensors: Tensors) -> int:
    """Bytes of all of them."""
    return sum(array.nbytes for _, array in tensors.values())


def of_rows(snapshot: Snapshot, start: int, ids: Sequence[int]) -> Tensors:
    """Keys and values of every attention layer from `start` on, and the tokens they are of."""
    arrays = {
        f"layers.{index}.rows.{part}": rows[0]
        for index, layer in enumerate(snapshot.layers)
        if isinstance(layer, KVSnapshot)
        for part, rows in enumerate(layer.rows(start))
    }
    tokens = np.asarray(ids[start:], dtype="<i4")
    return {"tokens": ("I32", tokens), **_copied(arrays)}


def of_state(snapshot: Snapshot) -> Tensors:
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
    return {
        name: (
            _KINDS[arrays[name].dtype],
            np.array(array).view(state_file.NUMPY[_KINDS[arrays[name].dtype]]),
        )
        for name, array in bits.items()
    }


class Room:
    """Keys and values of a whole conversation in MLX's own memory, to be filled by any threads.

    Args:
        layout: of the rows.
        end: how many rows there will be.
        threads: how many make the memory, see `make`.
    """

    def __init__(self, layout: Layout, end: int, threads: int):
        self.layout = layout
        self._end = end
        # Some turns more fit in, so that the next does not begin by copying everything.
        capacity = -(-(end + end // 16 + 256) // 256) * 256
        streams = itertools.cycle(_zeroing_streams(threads))
        self._bits = {
            name: mx.zeros(
                (1, heads, capacity, width),
                _BITS[state_file.NUMPY[kind].itemsize],
                stream=next(streams),
            )
            for name, (kind, heads, width) in layout.items()
        }
        # One by one, since what is evaluated together is there only when all of it is.
        for bits in self._bits.values():
            mx.async_eval(bits)
        self._shared: dict[str, Future[np.ndarray]] = {name: Future() for name in layout}

    def make(self) -> None:
        """Wait until all memory is there; what is there already can be filled meanwhile."""
        try:
            for name, bits in self._bits.items():
                mx.eval(bits)
                self._shared[name].set_result(np.array(bits, copy=False))
        finally:
            for shared in self._shared.values():
                shared.cancel()  # nobody waits for what does not come

    def parts(self, name: str, start: int, end: int) -> list[memoryview]:
        """Where rows `start` to `end` belong: writable memory, one piece per head.

        Waits for `make`, which runs in another thread.
        """
        rows = self._shared[name].result()[0, :, start:end]
        return [state_file.byte_view(head) for head in rows]

    def snapshot(self, state: Tensors) -> Snapshot:
        """What a cache restores, once every row is filled. Nothing is written here afterwards.

        Args:
            state: recurrent and convolution states at the end.
        """
        # MLX writes into an array in place only if nobody else holds its memory.
        self._shared.clear()
        arrays = {
            name: bits.view(_DTYPES[self.layout[name][0]]) for name, bits in self._bits.items()
        }
        self._bits.clear()
        for name, (kind, array) in state.items():
            bits = mx.array(array.view(f"u{array.itemsize}"))
            arrays[name] = bits.view(_DTYPES[kind])[None]
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
    """Where memory is zeroed: its pages are made by that, which takes one thread seconds.

    On the CPU whatever the device: what a GPU with memory of its own has made would move here and
    back. Made once, since MLX never ends the thread of a stream.
    """
    return [mx.new_thread_unsafe_stream(mx.cpu) for _ in range(count)]
