"""What the network remembers of the tokens so far, and how to come back to a point in it."""

from dataclasses import dataclass, field
from weakref import WeakSet

import mlx.core as mx

from qwen35_mlx.model.config import ModelConfig

GROWTH = 1.25
FIRST_CAPACITY = 256


class _Buffer:
    """Keys and values of one layer, [B, kv_heads, capacity, head_dim] each, filled to `written`.

    Several holders (caches and snapshots) may read one buffer up to a length of their own.
    Rows that a holder has are never overwritten: see `KVCache.update`.
    """

    def __init__(self, keys: mx.array, values: mx.array, written: int):
        self.keys = keys
        self.values = values
        self.written = written
        self.holders: WeakSet[KVCache | KVSnapshot] = WeakSet()

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, eq=False)
class KVSnapshot:
    """The first `offset` rows of a buffer, kept from being overwritten while this lives."""

    buffer: _Buffer | None
    offset: int


class KVCache:
    """Keys and values of one full-attention layer; grows geometrically."""

    def __init__(self) -> None:
        self._buffer: _Buffer | None = None
        self.offset = 0

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append T rows and return all of them.

        Args:
            keys, values: [B, kv_heads, T, head_dim].

        Returns:
            keys and values [B, kv_heads, offset + T, head_dim].
        """
        start, end = self.offset, self.offset + keys.shape[2]
        buffer = self._buffer
        if buffer is None or end > buffer.capacity or not self._may_write_from(start):
            buffer = self._grown(keys, values, end)
        buffer.keys[..., start:end, :] = keys
        buffer.values[..., start:end, :] = values
        buffer.written = self.offset = end
        return buffer.keys[..., :end, :], buffer.values[..., :end, :]

    def _may_write_from(self, start: int) -> bool:
        """Whether nobody else still needs the rows from `start` on."""
        buffer = self._buffer
        assert buffer is not None
        if start == buffer.written:
            return True
        return all(holder.offset <= start for holder in buffer.holders if holder is not self)

    def _grown(self, keys: mx.array, values: mx.array, end: int) -> _Buffer:
        """A buffer of this cache's own with its rows so far and room for `end`."""
        old = self._buffer
        capacity = FIRST_CAPACITY
        if old is not None:
            capacity = old.capacity if end <= old.capacity else int(old.capacity * GROWTH)
        capacity = -(-max(capacity, end) // FIRST_CAPACITY) * FIRST_CAPACITY

        def room(rows: mx.array, kept: mx.array | None) -> mx.array:
            batch, heads, _, dim = rows.shape
            grown = mx.zeros((batch, heads, capacity, dim), rows.dtype)
            if kept is not None:
                grown[..., : self.offset, :] = kept[..., : self.offset, :]
            return grown

        fresh = _Buffer(
            room(keys, old.keys if old else None), room(values, old.values if old else None), 0
        )
        if old is not None:
            old.holders.discard(self)
        fresh.holders.add(self)
        self._buffer = fresh
        return fresh

    def snapshot(self) -> KVSnapshot:
        result = KVSnapshot(self._buffer, self.offset)
        if self._buffer is not None:
            self._buffer.holders.add(result)
        return result

    def restore(self, snapshot: KVSnapshot) -> None:
        if self._buffer is not None:
            self._buffer.holders.discard(self)
        self._buffer, self.offset = snapshot.buffer, snapshot.offset
        if self._buffer is not None:
            self._buffer.holders.add(self)

    @property
    def arrays(self) -> list[mx.array]:
        return [] if self._buffer is None else [self._buffer.keys, self._buffer.values]


@dataclass(slots=True)
class DeltaState:
    """What a Gated DeltaNet layer remembers, whatever the number of tokens.

    Attributes:
        conv: the last inputs of the causal convolution, [B, kernel - 1, channels].
        recurrent: the delta rule's state, [B, nv, dv, dk] float32.

    Both are replaced at every step, never written into, so a snapshot is two references.
    """

    conv: mx.array | None = None
    recurrent: mx.array | None = None

    def snapshot(self) -> "DeltaState":
        return DeltaState(self.conv, self.recurrent)

    def restore(self, snapshot: "DeltaState") -> None:
        self.conv, self.recurrent = snapshot.conv, snapshot.recurrent

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.conv, self.recurrent) if a is not None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the network remembers at token position `offset`; costs references only."""

    offset: int
    layers: tuple[KVSnapshot | DeltaState, ...] = field(repr=False)


class Cache:
    """One entry per layer, and the number of tokens seen.

    Args:
        config: the network's shape.
        left_padding: [B] int32, how many tokens at the start of each row of the batch are
            padding; None for none.
    """

    def __init__(self, config: ModelConfig, left_padding: mx.array | None = None):
        self.layers: list[KVCache | DeltaState] = [
            KVCache() if kind == "full_attention" else DeltaState() for kind in config.layer_types
        ]
        self.left_padding = left_padding
        self.offset = 0

    def snapshot(self) -> Snapshot:
        """The state now. What is generated afterwards never changes it."""
        return Snapshot(self.offset, tuple(layer.snapshot() for layer in self.layers))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back (or forth) to a snapshot of this cache or of another for the same network."""
        for layer, saved in zip(self.layers, snapshot.layers, strict=True):
            layer.restore(saved)  # type: ignore[arg-type]
        self.offset = snapshot.offset

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays held, for one `mx.eval`."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes held, room to grow included."""
        return sum(array.nbytes for array in self.arrays)
