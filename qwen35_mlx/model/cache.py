"""What the network remembers of the tokens so far, and how to come back to a point in it."""

from dataclasses import dataclass, field
from weakref import WeakSet

import mlx.core as mx

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import KV_GROUP, KV_GROWTH

FIRST_CAPACITY = 256
# So many rows, at most, that came one by one are kept apart from the others: see `KVCache.append`.
APART = 256

Rows = tuple[mx.array, ...]


class _Buffer:
    """Rows of one layer: arrays [B, kv_heads, capacity, ...], filled to `written`.

    Several holders (caches and snapshots) may read one buffer up to a length of their own.
    Rows that a holder has are never overwritten: see `KVCache.update`.
    """

    def __init__(self, rows: Rows, written: int):
        self.rows = rows
        self.written = written
        self.holders: WeakSet[KVCache | KVSnapshot] = WeakSet()

    @property
    def capacity(self) -> int:
        return self.rows[0].shape[2]


class KVSnapshot:
    """The first `offset` rows of a buffer, kept from being overwritten while this lives."""

    __slots__ = ("__weakref__", "buffer", "offset")

    def __init__(self, buffer: _Buffer | None, offset: int):
        self.buffer = buffer
        self.offset = offset
        if buffer is not None:
            buffer.holders.add(self)

    @classmethod
    def of_rows(cls, rows: Rows, offset: int) -> "KVSnapshot":
        """A snapshot of rows that were kept elsewhere.

        Args:
            rows: arrays [B, kv_heads, capacity, ...] as a cache of the same kind holds them.
            offset: how many of the rows are filled.
        """
        return cls(_Buffer(rows, offset), offset)

    def rows(self, start: int) -> Rows:
        """Rows `start` to `offset`, [B, kv_heads, offset - start, ...] each."""
        if self.buffer is None:
            return ()
        return tuple(a[..., start : self.offset, :] for a in self.buffer.rows)


class KVCache:
    """Keys and values of one full-attention layer; grows geometrically.

    Args:
        bits: keys and values are quantised to so many; None keeps them as they are.
    """

    def __init__(self, bits: int | None = None) -> None:
        self.bits = bits
        self._buffer: _Buffer | None = None
        # Rows [B, kv_heads, APART, head_dim], the first `_apart` of them filled.
        self._tail: Rows = ()
        self._apart = 0
        self.offset = 0

    def append(self, key: mx.array, value: mx.array) -> tuple[Rows, Rows]:
        """Add one row to a cache that has some, without touching those before it.

        MLX writes into an array in place only if no running step still reads it, and copies all of
        it otherwise: of a long conversation gigabytes for every token. Here it is a few rows.

        Args:
            key, value: [B, kv_heads, 1, head_dim], kept as they are: not where there are `bits`.

        Returns:
            keys and values [B, kv_heads, N, head_dim], and those after them, [B, kv_heads, n,
            head_dim]: at least one each.
        """
        assert self._buffer is not None
        assert self.bits is None
        if self._apart == APART:
            self._settle()
        if not self._apart:
            batch, heads, _, width = key.shape
            self._tail = tuple(mx.zeros((batch, heads, APART, width), key.dtype) for _ in "kv")
        for held, added in zip(self._tail, (key, value), strict=True):
            held[..., self._apart : self._apart + 1, :] = added
        self._apart += 1
        self.offset += 1
        before = self.offset - self._apart
        return (
            tuple(held[..., :before, :] for held in self._buffer.rows),
            tuple(held[..., : self._apart, :] for held in self._tail),
        )

    def _settle(self) -> None:
        """Put the rows that are apart to the others."""
        if self._apart:
            apart = tuple(held[..., : self._apart, :] for held in self._tail)
            self.offset -= self._apart
            self._tail, self._apart = (), 0
            self._write(apart)

    def update(self, keys: mx.array, values: mx.array) -> Rows:
        """Append T rows and return all of them.

        Args:
            keys, values: [B, kv_heads, T, head_dim].

        Returns:
            keys and values [B, kv_heads, offset + T, head_dim]; quantised, each of them as packed
            words, scales and biases (see `mx.quantize`).
        """
        self._settle()
        rows = (keys, values)
        if self.bits is not None:
            rows = (*_quantize(keys, self.bits), *_quantize(values, self.bits))
        return self._write(rows)

    def _write(self, rows: Rows) -> Rows:
        """`update` with rows as the buffer has them."""
        start, end = self.offset, self.offset + rows[0].shape[2]
        buffer = self._buffer
        if buffer is None or end > buffer.capacity or not self._may_write_from(start):
            buffer = self._grown(rows, end)
        for held, added in zip(buffer.rows, rows, strict=True):
            held[..., start:end, :] = added
        buffer.written = self.offset = end
        return tuple(held[..., :end, :] for held in buffer.rows)

    def _may_write_from(self, start: int) -> bool:
        """Whether nobody else still needs the rows from `start` on."""
        buffer = self._buffer
        assert buffer is not None
        if start == buffer.written:
            return True
        return all(holder.offset <= start for holder in buffer.holders if holder is not self)

    def _grown(self, added: Rows, end: int) -> _Buffer:
        """A buffer with the rows so far and room for `end`.

        Snapshots of no more than these rows move along, so that the old buffer can be freed.
        """
        old = self._buffer
        # Of what is used, not of the old room: a branch from the start of a long conversation
        # does not take as much as that does.
        capacity = max(int(self.offset * KV_GROWTH), end)
        capacity = -(-capacity // FIRST_CAPACITY) * FIRST_CAPACITY

        def room(like: mx.array, kept: mx.array | None) -> mx.array:
            batch, heads, _, width = like.shape
            grown = mx.zeros((batch, heads, capacity, width), like.dtype)
            if kept is not None:
                grown[..., : self.offset, :] = kept[..., : self.offset, :]
            return grown

        kept = old.rows if old is not None else (None,) * len(added)
        fresh = _Buffer(tuple(room(a, k) for a, k in zip(added, kept, strict=True)), self.offset)
        if old is not None:
            for holder in list(old.holders):
                if isinstance(holder, KVSnapshot) and holder.offset <= self.offset:
                    old.holders.discard(holder)
                    holder.buffer = fresh
                    fresh.holders.add(holder)
        self._hold(fresh)
        return fresh

    def snapshot(self) -> KVSnapshot:
        self._settle()
        return KVSnapshot(self._buffer, self.offset)

    def restore(self, snapshot: KVSnapshot) -> None:
        self._tail, self._apart = (), 0
        self._hold(snapshot.buffer)
        self.offset = snapshot.offset

    def _hold(self, buffer: _Buffer | None) -> None:
        if self._buffer is not None:
            self._buffer.holders.discard(self)
        self._buffer = buffer
        if buffer is not None:
            buffer.holders.add(self)

    @property
    def arrays(self) -> list[mx.array]:
        return [*self._rows, *self._tail]

    @property
    def touched(self) -> Rows:
        """The arrays that the last row was written into."""
        return self._tail or self._rows

    @property
    def _rows(self) -> Rows:
        return () if self._buffer is None else self._buffer.rows


def _quantize(x: mx.array, bits: int) -> Rows:
    return tuple(mx.quantize(x, group_size=KV_GROUP, bits=bits))


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
        kv_bits: as `KVCache.bits`.
    """

    def __init__(
        self,
        config: ModelConfig,
        left_padding: mx.array | None = None,
        kv_bits: int | None = None,
    ):
        self.layers: list[KVCache | DeltaState] = [
            KVCache(kv_bits) if kind == "full_attention" else DeltaState()
            for kind in config.layer_types
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

    @property
    def touched_nbytes(self) -> int:
        """Those of keys and values that MLX copies for another token, if a step reads them yet."""
        layers = (layer for layer in self.layers if isinstance(layer, KVCache))
        return sum(array.nbytes for layer in layers for array in layer.touched)
