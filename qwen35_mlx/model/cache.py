"""The network's state after a number of tokens, with snapshots to return to."""

from dataclasses import dataclass, field
from weakref import WeakSet

import mlx.core as mx

from qwen35_mlx.kernels.decode_attention import first_rows
from qwen35_mlx.model.config import ModelConfig
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

    def rows(self, start: int) -> KVArrays:
        """Rows `start` to `offset`, [B, kv_heads, offset - start, ...] each; () if empty."""
        if self.buffer is None:
            return ()
        return tuple(a[..., start : self.offset, :] for a in self.buffer.rows)


class KVCache:
    """Keys and values of one full-attention layer; grows geometrically.

    Args:
        bits: of a quantised key or value; None stores them unquantised.
    """

    def __init__(self, bits: int | None = None) -> None:
        self.bits = bits
        self._buffer: _Buffer | None = None
        # Arrays [B, kv_heads, TAIL_ROWS, ...] as in the buffer, `_tail_length` rows filled.
        self._tail: KVArrays = ()
        self._tail_length = 0
        self.offset = 0

    def append_to_tail(self, keys: mx.array, values: mx.array) -> tuple[KVArrays, KVArrays]:
        """Append T rows, at most `TAIL_ROWS`, without writing them to the buffer.

        MLX writes into an array in place only if no pending computation still reads it; otherwise
        it copies the whole array, which for a long conversation is gigabytes per token. The tail
        is small enough to copy.

        Args:
            keys, values: [B, kv_heads, T, head_dim].

        Returns:
            keys and values of the buffer, [B, kv_heads, N, head_dim] each, and of the tail,
            [B, kv_heads, n, head_dim] each, with N at least 1 and n at least T. Where they are
            quantised, words, scales and biases of each; see `decode_attention.first_rows`.

        The cache must hold a row already.
        """
        assert self._buffer is not None
        added = keys.shape[2]
        if self._tail_length + added > TAIL_ROWS:
            self._flush_tail()
        rows = self._stored(keys, values)
        if not self._tail_length:
            self._tail = tuple(_empty_rows(array, TAIL_ROWS) for array in rows)
        start, end = self._tail_length, self._tail_length + added
        for array, new in zip(self._tail, rows, strict=True):
            array[..., start:end, :] = new
        self._tail_length = end
        self.offset += added
        buffered = self.offset - self._tail_length
        return first_rows(self._buffer.rows, buffered), first_rows(self._tail, self._tail_length)

    def _stored(self, keys: mx.array, values: mx.array) -> KVArrays:
        """The rows in the buffer's format."""
        if self.bits is None:
            return keys, values
        return (*_quantize(keys, self.bits), *_quantize(values, self.bits))

    def _flush_tail(self) -> None:
        """Move the tail's rows into the buffer."""
        if self._tail_length:
            rows = tuple(array[..., : self._tail_length, :] for array in self._tail)
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
        return self._write(self._stored(keys, values))

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


def _quantize(x: mx.array, bits: int) -> KVArrays:
    return tuple(mx.quantize(x, group_size=KV_GROUP, bits=bits))


@dataclass(frozen=True, slots=True)
class DeltaPass:
    """What a Gated DeltaNet layer needs to compute the state after a part of its last pass again.

    Attributes:
        conv, recurrent: the state before the pass, as in `DeltaState`.
        projected: the pass's tokens behind the input projections, [B, T, width].
    """

    conv: mx.array
    recurrent: mx.array
    projected: mx.array


@dataclass(slots=True)
class DeltaState:
    """State of a Gated DeltaNet layer; its size does not depend on the number of tokens.

    Attributes:
        conv: the last inputs of the causal convolution, [B, kernel - 1, channels]; None at first.
        recurrent: the delta rule's state, [B, value heads, value head dim, key head dim] float32;
            None at first.
        last_pass: what the last pass started from, if it may be taken back.

    Both states are replaced at every call, never written into, so a snapshot is two references.
    """

    conv: mx.array | None = None
    recurrent: mx.array | None = None
    last_pass: DeltaPass | None = None

    def snapshot(self) -> "DeltaState":
        return DeltaState(self.conv, self.recurrent)

    def restore(self, snapshot: "DeltaState") -> None:
        self.conv, self.recurrent, self.last_pass = snapshot.conv, snapshot.recurrent, None

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.conv, self.recurrent) if a is not None]


@dataclass(slots=True)
class HeadState:
    """State of the MTP head, which reads the network's output at a token with the token after it.

    Attributes:
        kv: of the tokens that it has read; its own.
        hidden: the network's output at token `end` - 1, [B, 1, hidden], which the head reads once
            the token after it is there; None at first.
        end: number of tokens of the conversation that this state is of.
    """

    kv: KVCache
    hidden: mx.array | None = None
    end: int = 0

    def snapshot(self) -> "HeadSnapshot | None":
        return None if self.hidden is None else HeadSnapshot(self.kv.snapshot(), self.hidden)

    def restore(self, snapshot: "HeadSnapshot | None", end: int) -> None:
        """Return to a snapshot after `end` tokens; None: the head has read nothing."""
        self.kv.restore(KVSnapshot(None, 0) if snapshot is None else snapshot.kv)
        self.hidden, self.end = (None, 0) if snapshot is None else (snapshot.hidden, end)


@dataclass(frozen=True, slots=True)
class HeadSnapshot:
    """`HeadState` at the end of a snapshot."""

    kv: KVSnapshot
    hidden: mx.array


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The network's state after `offset` tokens. It shares arrays with the cache.

    Attributes:
        head: the MTP head's; None without one, or if the head has not read all of these tokens.
    """

    offset: int
    layers: tuple[KVSnapshot | DeltaState, ...] = field(repr=False)
    head: HeadSnapshot | None = field(default=None, repr=False)


# `Cache.offset` of a pass that was begun and not ended.
NO_OFFSET = -(1 << 30)


class Cache:
    """State of all layers.

    Args:
        config: the network's sizes.
        kv_bits: as `KVCache.bits`.
        mtp: whether there is an MTP head.

    Attributes:
        layers: one entry per layer.
        offset: number of tokens seen.
        head: the MTP head's state, which whoever drafts with the head keeps; None without a head.
    """

    def __init__(self, config: ModelConfig, kv_bits: int | None = None, *, mtp: bool = False):
        self.layers: list[KVCache | DeltaState] = [
            KVCache(kv_bits) if kind == "full_attention" else DeltaState()
            for kind in config.layer_types
        ]
        self.offset = 0
        self.head = HeadState(KVCache(kv_bits)) if mtp else None

    def snapshot(self) -> Snapshot:
        """The current state. Later tokens never change it."""
        layers = tuple(layer.snapshot() for layer in self.layers)
        head = self.head if self.head is not None and self.head.end == self.offset else None
        return Snapshot(self.offset, layers, head and head.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this cache, or of another one of the same network."""
        for layer, saved in zip(self.layers, snapshot.layers, strict=True):
            layer.restore(saved)  # type: ignore[arg-type]
        self.offset = snapshot.offset
        if self.head is not None:
            self.head.restore(snapshot.head, snapshot.offset)

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays of all layers, for one `mx.eval`."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, spare capacity included."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def append_target_nbytes(self) -> int:
        """Bytes that MLX copies to append a row of keys and values that a step still reads."""
        layers = (layer for layer in self.layers if isinstance(layer, KVCache))
        return sum(array.nbytes for layer in layers for array in layer.append_target)
