"""The network's state after a number of tokens, with snapshots to return to."""

from dataclasses import dataclass, field

import mlx.core as mx

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVCache, KVSnapshot


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


LastPasses = tuple[DeltaPass | None, ...]


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

    def clear(self) -> None:
        """Return to the state in which the head has read nothing."""
        self.restore(None, 0)

    def keep(self, hidden: mx.array, end: int) -> None:
        """Keep what the head reads next: the network's output at token `end` - 1."""
        self.hidden, self.end = hidden, end
        mx.async_eval(hidden, self.kv.arrays)


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

    @property
    def arrays(self) -> list[mx.array]:
        """All that it keeps in memory, the spare capacity of keys and values included."""
        own = [] if self.head is None else [self.head.hidden, *self.head.kv.arrays]
        return [*(array for layer in self.layers for array in layer.arrays), *own]


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

    def leave_stack(self) -> None:
        """Copy the states that are rows of a `Stack`, so that they do not keep all of it."""
        for layer in self.layers:
            if isinstance(layer, DeltaState) and layer.conv is not None:
                assert layer.recurrent is not None
                row = mx.array([0])
                layer.conv, layer.recurrent = layer.conv[row], layer.recurrent[row]
                layer.last_pass = None
        mx.async_eval(self.arrays)

    @property
    def last_passes(self) -> LastPasses:
        """What the Gated DeltaNet layers need to take back a part of their last pass, in order."""
        return tuple(layer.last_pass for layer in self.layers if isinstance(layer, DeltaState))

    @last_passes.setter
    def last_passes(self, passes: LastPasses) -> None:
        layers = (layer for layer in self.layers if isinstance(layer, DeltaState))
        for layer, last_pass in zip(layers, passes, strict=True):
            layer.last_pass = last_pass

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
