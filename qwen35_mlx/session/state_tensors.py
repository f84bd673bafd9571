"""What a cache holds as named tensors for files, and back, to the last bit."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.cache import DeltaState, KVSnapshot, Snapshot
from qwen35_mlx.session import state_file

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


def snapshot(
    end: int,
    buffers: dict[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
) -> Snapshot:
    """Arrays read from disk as what a cache restores; empties `buffers`."""

    def array(name: str, bits: np.ndarray) -> mx.array:
        integers = np.dtype(f"u{bits.itemsize}")
        return mx.array(bits.view(integers)).view(_DTYPES[kinds[name]])[None]

    layers: dict[int, dict[str, mx.array]] = {}
    for name in [*buffers, *arrays]:
        bits = buffers.pop(name) if name in buffers else arrays[name]
        made = array(name, bits)
        mx.eval(made)
        _, index, part = name.split(".", 2)
        layers.setdefault(int(index), {})[part] = made
    restored: list[KVSnapshot | DeltaState] = []
    for _, parts in sorted(layers.items()):
        if "recurrent" in parts:
            restored.append(DeltaState(parts["conv"], parts["recurrent"]))
        else:
            rows = tuple(parts[f"rows.{i}"] for i in range(len(parts)))
            restored.append(KVSnapshot.of_rows(rows, end))
    return Snapshot(end, tuple(restored))
