"""Drafts: guesses of the tokens that follow, which the network verifies in one pass.

A wrong draft costs time and nothing else: only what the network itself samples becomes part of a
reply.
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.model.cache import KVCache
from qwen35_mlx.model.network import Network

# Tokens that must be equal before what followed them is copied.
NGRAM = 3
# Rows that an MTP head has not read yet are kept up to this many; they are then read together.
_PENDING_ROWS = 64


class Drafts(Protocol):
    """A source of drafts, for one reply."""

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        """Take note of tokens that follow those read so far.

        Args:
            hidden: the network's output at the token before each of `ids`, [1, T, hidden]; only
                the MTP head needs it.
        """
        ...

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        """At most `count` tokens that may follow those read so far, [n] int32.

        Args:
            sampler, reply, position: as for `Sampler`, of the first drafted token.
        """
        ...


class MTPDrafts:
    """Drafts of the multi-token-prediction head, which is fed its own output to draft further.

    The drafts are sampled as the reply is, with the same noise, so that as many as possible are
    the tokens that the network itself samples.

    Args:
        kv_bits: as `KVCache.bits`, for the head's own keys and values.
    """

    def __init__(self, network: Network, kv_bits: int | None = None):
        assert network.mtp is not None
        self._network = network
        self._head = network.mtp
        self._cache = KVCache(kv_bits)
        # Not read by the head yet: rows of the network's output, and the tokens after them.
        self._hidden: list[mx.array] = []
        self._ids: list[int] = []

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        assert hidden is not None
        self._hidden.append(hidden)
        self._ids += ids
        if len(self._ids) > _PENDING_ROWS:
            mx.async_eval(self._catch_up())

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        if not self._ids:
            return mx.array([], mx.int32)
        drafts = mx.array([], mx.int32)
        hidden = self._catch_up()[:, -1:]
        for i in range(count):
            if i:
                hidden = self._head(hidden, self._network.embed(drafts[None, -1:]), self._cache)
            logits = self._network.logits(hidden)[0]
            before = mx.concatenate([reply, drafts])
            drafts = mx.concatenate([drafts, sampler(logits, before, position + i)])
        if count > 1:
            self._cache.take_back(count - 1)
        return drafts

    def _catch_up(self) -> mx.array:
        """The head's output for all rows that it has not read, [1, T, hidden]."""
        hidden = mx.concatenate(self._hidden, axis=1)
        embedded = self._network.embed(self._network.token_array(self._ids))
        self._hidden, self._ids = [], []
        return self._head(hidden, embedded, self._cache)


class CopyDrafts:
    """Drafts from the conversation: what followed the latest tokens where they stood before.

    Edits of pasted code and text repeat long pieces of it.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        # Where each n-gram stood last: the index of the token that followed it.
        self._following: dict[int, int] = {}

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        before = self._ids[-NGRAM:]
        start = len(self._ids) - len(before)
        self._ids += ids
        # The last one of all has nothing behind it yet.
        ngrams = _ngrams([*before, *ids][:-1])
        self._following.update(zip(ngrams, range(start + NGRAM, len(self._ids)), strict=True))

    @property
    def match_length(self) -> int:
        """How many of the latest tokens stood before what would be copied, up to 32; 0 for none."""
        end = self._end
        if end is None:
            return 0
        length = NGRAM
        while length < min(32, end) and self._ids[end - length - 1] == self._ids[-length - 1]:
            length += 1
        return length

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        end = self._end
        copied = [] if end is None else self._ids[end : end + count]
        return mx.array(np.array(copied, np.int32))

    @property
    def _end(self) -> int | None:
        """Where the latest tokens stood before: the index of what followed; None if nowhere."""
        latest = _ngrams(self._ids[-NGRAM:])
        return self._following.get(latest[0]) if latest else None


def _ngrams(ids: Sequence[int]) -> list[int]:
    """Every `NGRAM` neighbours in one number each; ids below 2 ** 21."""
    if len(ids) < NGRAM:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids, np.int64), NGRAM)
    return (windows << np.array([42, 21, 0])).sum(-1).tolist()
