"""The network as the first process uses it: whatever is done to it, all processes do.

Each call is announced to the others, which make it, too, in the same order. Arrays that only the
first process has, such as sampled tokens, are shared by an exchange within the graph: nothing is
evaluated for it, so that passes are launched ahead as in one process.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from qwen35_mlx.distributed.link import Followers
from qwen35_mlx.model.cache import Cache, HeadState, Snapshot
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.stack import Stack


class Handle:
    """An object of the other processes. They drop it after this one is gone."""

    def __init__(self, followers: Followers):
        self.number = followers.new_number()
        weakref.finalize(self, followers.drop, self.number).atexit = False


class Group:
    """The processes, and the exchange of what only the first one has.

    Args:
        handle: of the network in the others.

    Attributes:
        followers: the others.
        parallel: all of them, as the network uses them.
    """

    def __init__(self, followers: Followers, network: Network, handle: Handle):
        self.followers = followers
        self.parallel = network.parallel
        self._handle = handle

    def call(self, name: str, shared: mx.array | None = None, **fields: Any) -> mx.array:
        """Announce a call; returns `shared` as all processes have it."""
        fields["network"] = self._handle.number
        if shared is None:
            self.followers.send(name, **fields)
            return mx.array([])
        dtype = str(shared.dtype).removeprefix("mlx.core.")
        self.followers.send(name, shape=shared.shape, dtype=dtype, **fields)
        return self.parallel.from_first(shared)


@dataclass(frozen=True, slots=True)
class LeadingSnapshot(Snapshot):
    """A snapshot that every process has its part of."""

    handle: Handle | None = field(default=None, repr=False)

    @property
    def number(self) -> int:
        assert self.handle is not None
        return self.handle.number


class LeadingKV(KVCache):
    """Keys and values of the MTP head, in all processes."""

    def __init__(self, bits: int | None, group: Group, cache: int):
        super().__init__(bits)
        self.cache = cache
        self._group = group

    def take_back(self, count: int) -> None:
        self._group.call("head_take_back", cache=self.cache, count=count)
        super().take_back(count)


class LeadingHeadState(HeadState):
    """State of the MTP head, in all processes."""

    def __init__(self, kv: LeadingKV, group: Group):
        super().__init__(kv)
        self._group, self._cache = group, kv.cache

    def clear(self) -> None:
        self._group.call("head_clear", cache=self._cache)
        super().clear()

    def keep(self, hidden: mx.array, end: int) -> None:
        super().keep(self._group.call("head_keep", hidden, cache=self._cache, end=end), end)


class LeadingCache(Cache):
    """State of all layers, in all processes."""

    def __init__(self, network: Network, group: Group, kv_bits: int | None):
        mtp = network.mtp is not None
        super().__init__(network.config, kv_bits, mtp=mtp)
        self._group = group
        self._handle = Handle(group.followers)
        self.number = self._handle.number
        if mtp:
            self.head = LeadingHeadState(LeadingKV(kv_bits, group, self.number), group)
        group.call("make_cache", cache=self.number, kv_bits=kv_bits)

    def snapshot(self) -> LeadingSnapshot:
        handle = Handle(self._group.followers)
        self._group.call("snapshot", cache=self.number, snapshot=handle.number)
        own = super().snapshot()
        return LeadingSnapshot(own.offset, own.layers, own.head, handle)

    def restore(self, snapshot: Snapshot) -> None:
        assert isinstance(snapshot, LeadingSnapshot)
        self._group.call("restore", cache=self.number, snapshot=snapshot.number)
        super().restore(snapshot)

    def restore_own(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this process; the others do so by themselves."""
        super().restore(snapshot)

    def leave_stack(self) -> None:
        self._group.call("leave_stack", cache=self.number)
        super().leave_stack()


class LeadingStacks(list[Stack]):
    """Stacks of all layers, in all processes."""

    def __init__(self, stacks: Sequence[Stack], followers: Followers):
        super().__init__(stacks)
        self.handle = Handle(followers)


class LeadingHead(MTPHead):
    """The MTP head, in all processes."""

    def __init__(self, head: MTPHead, group: Group):
        self._own, self._group = head, group

    def __call__(self, hidden: mx.array, embedded_next: mx.array, cache: KVCache) -> mx.array:
        assert isinstance(cache, LeadingKV)
        # In one exchange: the order of two would be open.
        both = mx.concatenate([hidden, embedded_next.astype(hidden.dtype)], axis=-1)
        both = self._group.call("head", both, cache=cache.cache)
        hidden, embedded_next = mx.split(both, 2, axis=-1)
        return self._own(hidden, embedded_next, cache)


class LeadingNetwork(Network):
    """A network in several processes, with the interface of one.

    Args:
        own: the part of the first process.
        followers: the others.
        handle: of their parts, which are loaded.
        limit: bytes that a process may take.
    """

    def __init__(self, own: Network, followers: Followers, handle: Handle, limit: int):
        self.limit = limit
        self._own, self.followers, self.handle = own, followers, handle
        self._group = Group(followers, own, handle)
        self.config, self.dtype, self.parallel = own.config, own.dtype, own.parallel
        self.selection, self.lm_head = own.selection, own.lm_head
        self.mtp = None if own.mtp is None else LeadingHead(own.mtp, self._group)

    def make_cache(self, kv_bits: int | None = None) -> LeadingCache:
        return LeadingCache(self._own, self._group, kv_bits)

    def __call__(self, ids: mx.array, cache: Cache, *, revocable: bool = False) -> mx.array:
        assert isinstance(cache, LeadingCache)
        ids = self._group.call("pass", ids, cache=cache.number, revocable=revocable)
        return self._own(ids, cache, revocable=revocable)

    def together(self, ids: mx.array, caches: Sequence[Cache], stacks: Sequence[Stack]) -> mx.array:
        assert isinstance(stacks, LeadingStacks)
        numbers = [cache.number for cache in caches if isinstance(cache, LeadingCache)]
        ids = self._group.call("together", ids, caches=numbers, stacks=stacks.handle.number)
        return self._own.together(ids, caches, stacks)

    def make_stacks(self) -> LeadingStacks:
        stacks = LeadingStacks(self._own.make_stacks(), self.followers)
        self._group.call("make_stacks", stacks=stacks.handle.number)
        return stacks

    def take_back(self, cache: Cache, count: int) -> None:
        assert isinstance(cache, LeadingCache)
        if count:
            self._group.call("take_back", cache=cache.number, count=count)
            self._own.take_back(cache, count)

    def token_array(self, ids: Sequence[int]) -> mx.array:
        return self._own.token_array(ids)

    def embed(self, ids: mx.array) -> mx.array:
        return self._own.embed(self._group.call("embed", ids))

    def logits(self, hidden: mx.array) -> mx.array:
        return self._own.logits(self._group.call("logits", hidden))
