"""Keys and values of one attention layer, with snapshots to return to."""

from dataclasses import dataclass
from weakref import WeakSet

import mlx.core as mx

from qwen35_mlx.kernels.decode_attention import first_rows
from qwen35_mlx.model.memory import KV_GROUP, KV_GROWTH

FIRST_CAPACITY = 256
# Capacity of the tail, which holds the latest rows of a decode: see `KVCache.append_to_tail`.
TAIL_ROWS = 256

# Keys, then values; where they are quantised, packed words, scales and biases of each.
KVArrays = tuple[mx.array, ...]


class _Buffer:
    """Rows of one layer: arrays [B, kv_heads, capacity, ...], of which `filled` rows are in use.

    Several holders (caches and snapshots) may share one buffer, each up to its own offset. A row
    below the offset of any holder is never overwritten: see `KVCache.update`.
    """

    def __init__(self, rows: KVArrays, filled: int):
        self.rows = rows
        self.filled = filled
        self.holders: WeakSet[KVCache | KVSnapshot] = WeakSet()

    @property
    def capacity(self) -> int:
        return self.rows[0].shape[2]


class KVSnapshot:
    """The first `offset` rows of a buffer, protected from being overwritten while this lives."""

    __slots__ = ("__weakref__", "buffer", "offset")

    def __init__(self, buffer: _Buffer | None, offset: int):
        self.buffer = buffer
        self.offset = offset
        if buffer is not None:
            buffer.holders.add(self)

    @classmethod
    def of_rows(cls, rows: KVArrays, offset: int) -> "KVSnapshot":
        """A snapshot of stored rows.

        Args:
            rows: arrays [B, kv_heads, capacity, ...], as a cache with the same `bits` holds them.
            offset: number of filled rows.
        """
        return cls(_Buffer(rows, offset), offset)

    @property
    def arrays(self) -> KVArrays:
        """The arrays that the rows are in."""
        return () if self.buffer is None else self.buffer.rows

    def rows(self, start: int) -> KVArrays:
        """Rows `start` to `offset`, [B, kv_heads, offset - start, ...] each; () if empty."""
        if self.buffer is None:
            return ()
        return tuple(a[..., start : self.offset, :] for a in self.buffer.rows)


@dataclass(frozen=True, slots=True)
class TailPlace:
    """Where rows go in the tail of a `KVCache`: numbers that layers alike share.

    Attributes:
        bits: as `KVCache.bits`.
        buffered: rows of the buffer, before those of the tail.
        start, end: of the rows in the tail.
    """

    bits: int | None
    buffered: int
    start: int
    end: int

    def write(self, tail: KVArrays, kv: mx.array) -> None:
        """Write keys and values, [2, B, kv_heads, end - start, head_dim], to their place."""
        for array, rows in zip(tail, _stored(kv, self.bits), strict=True):
            array[..., self.start : self.end, :] = rows

    def in_use(self, buffer: KVArrays, tail: KVArrays) -> tuple[KVArrays, KVArrays]:
        """The rows of both, as `KVCache.append_to_tail` returns them."""
        return first_rows(buffer, self.buffered), first_rows(_keys_and_values(tail), self.end)


class KVCache:
    """Keys and values of one full-attention layer; grows geometrically.

    Args:
        bits: of a quantised key or value; None stores them unquantised.
    """

    def __init__(self, bits: int | None = None) -> None:
        self.bits = bits
        self._buffer: _Buffer | None = None
        # Keys and values together, [2, B, kv_heads, TAIL_ROWS, ...] in the format of the buffer,
        # `_tail_length` rows filled: half as many arrays to write at every token.
        self._tail: KVArrays = ()
        self._tail_length = 0
        self.offset = 0

    def append_to_tail(self, kv: mx.array) -> tuple[KVArrays, KVArrays]:
        """Append T rows, at most `TAIL_ROWS`, without writing them to the buffer.

        MLX writes into an array in place only if no pending computation still reads it; otherwise
        it copies the whole array, which for a long conversation is gigabytes per token. The tail
        is small enough to copy.

        Args:
            kv: keys and values, [2, B, kv_heads, T, head_dim].

        Returns:
            keys and values of the buffer, [B, kv_heads, N, head_dim] each, and of the tail,
            [B, kv_heads, n, head_dim] each, with N at least 1 and n at least T. Where they are
            quantised, words, scales and biases of each; see `decode_attention.first_rows`.

        The cache must hold a row already.
        """
        place = self.next_in_tail(kv.shape[3])
        place.write(self._tail, kv)
        self.set_tail(place, self._tail)
        return place.in_use(self._rows, self._tail)

    def next_in_tail(self, count: int) -> "TailPlace":
        """Make room for `count` rows in the tail, at most `TAIL_ROWS`; they are not added yet.

        The cache must hold a row already.
        """
        assert self._buffer is not None
        if self._tail_length + count > TAIL_ROWS:
            self._flush_tail()
        if not self._tail_length:
            keys = self._buffer.rows[: len(self._buffer.rows) // 2]
            self._tail = tuple(
                mx.zeros((2, *array.shape[:2], TAIL_ROWS, array.shape[3]), array.dtype)
                for array in keys
            )
        buffered = self.offset - self._tail_length
        return TailPlace(self.bits, buffered, self._tail_length, self._tail_length + count)

    def set_tail(self, place: "TailPlace", tail: KVArrays) -> None:
        """Add the rows that were written to their place in `tail`."""
        self._tail = tail
        self.offset += place.end - self._tail_length
        self._tail_length = place.end

    @property
    def parts(self) -> tuple[KVArrays, KVArrays]:
        """The arrays of the buffer and of the tail."""
        return self._rows, self._tail

    def _flush_tail(self) -> None:
        """Move the tail's rows into the buffer."""
        if self._tail_length:
            tail = _keys_and_values(self._tail)
            rows = tuple(array[..., : self._tail_length, :] for array in tail)
            self.offset -= self._tail_length
            self._tail, self._tail_length = (), 0
            self._write(rows)

    def update(self, keys: mx.array, values: mx.array) -> KVArrays:
        """Append T rows and return all of them.

        Args:
            keys, values: [B, kv_heads, T, head_dim].

        Returns:
            keys and values [B, kv_heads, offset + T, head_dim]; where they are quantised, packed
            words, scales and biases of the keys, then of the values (see `mx.quantize`).
        """
        self._flush_tail()
        return self._write((*_stored(keys, self.bits), *_stored(values, self.bits)))

    def _write(self, rows: KVArrays) -> KVArrays:
        """`update` with rows in the buffer's format."""
        start, end = self.offset, self.offset + rows[0].shape[2]
        buffer = self._buffer
        if buffer is None or end > buffer.capacity or not self._may_write_from(start):
            buffer = self._grown(rows, end)
        for array, added in zip(buffer.rows, rows, strict=True):
            array[..., start:end, :] = added
        buffer.filled = self.offset = end
        return tuple(array[..., :end, :] for array in buffer.rows)

    def _may_write_from(self, start: int) -> bool:
        """Whether no other holder needs a row at or after `start`."""
        buffer = self._buffer
        assert buffer is not None
        if start == buffer.filled:
            return True
        return all(holder.offset <= start for holder in buffer.holders if holder is not self)

    def _grown(self, added: KVArrays, end: int) -> _Buffer:
        """A new buffer with a copy of the rows so far and capacity for at least `end`.

        Snapshots that these rows cover move to it, so that the old buffer can be freed.
        """
        old = self._buffer
        # Capacity follows the rows in use, not the old capacity: a short branch of a long
        # conversation stays small.
        capacity = max(int(self.offset * KV_GROWTH), end)
        capacity = -(-capacity // FIRST_CAPACITY) * FIRST_CAPACITY

        def grow(like: mx.array, rows: mx.array | None) -> mx.array:
            grown = _empty_rows(like, capacity)
            if rows is not None:
                grown[..., : self.offset, :] = rows[..., : self.offset, :]
            return grown

        existing = old.rows if old is not None else (None,) * len(added)
        arrays = tuple(grow(a, rows) for a, rows in zip(added, existing, strict=True))
        fresh = _Buffer(arrays, self.offset)
        if old is not None:
            for holder in list(old.holders):
                if isinstance(holder, KVSnapshot) and holder.offset <= self.offset:
                    old.holders.discard(holder)
                    holder.buffer = fresh
                    fresh.holders.add(holder)
        self._hold(fresh)
        return fresh

    def take_back(self, count: int) -> None:
        """Remove the last `count` rows, of the tail first. Rows of a snapshot stay in it."""
        assert count <= self.offset
        self.offset -= count
        self._tail_length = max(self._tail_length - count, 0)
        if not self._tail_length:
            self._tail = ()

    def snapshot(self) -> KVSnapshot:
        self._flush_tail()
        return KVSnapshot(self._buffer, self.offset)

    def restore(self, snapshot: KVSnapshot) -> None:
        self._tail, self._tail_length = (), 0
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
    def append_target(self) -> KVArrays:
        """The arrays that the last rows were written into."""
        return self._tail or self._rows

    @property
    def _rows(self) -> KVArrays:
        return () if self._buffer is None else self._buffer.rows


def _empty_rows(like: mx.array, count: int) -> mx.array:
    batch, heads, _, width = like.shape
    return mx.zeros((batch, heads, count, width), like.dtype)


def _stored(rows: mx.array, bits: int | None) -> KVArrays:
    """Keys, values or both in the format of a buffer: packed words, scales and biases."""
    return (rows,) if bits is None else tuple(mx.quantize(rows, group_size=KV_GROUP, bits=bits))


def _keys_and_values(tail: KVArrays) -> KVArrays:
    """The arrays of a tail in the order of those of a buffer."""
    return (*[array[0] for array in tail], *[array[1] for array in tail])
