"""Drafts: guesses of the tokens that follow, which the network verifies in one pass.

A wrong draft costs time and nothing else: only what the network itself samples becomes part of a
reply.
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network

# Tokens that must be equal before what followed them is copied.
NGRAM = 3
# So few ids are joined in Python: NumPy's windows take longer than a pass should wait for a token.
_FEW_IDS = 32
# Tokens that are compared at once with those of the last turn.
_BLOCK = 1024
# Rows that an MTP head has not read yet are kept up to this many; they are then read together.
_PENDING_ROWS = 64
# Tokens that a shortened output head of a large vocabulary has, for drafts alone. In a BPE
# vocabulary the first are the most frequent: of Qwen3.5's 248,320 tokens, these are 98 % of English
# prose and of code, and their rows a quarter of what a draft reads of the output head.
SHORT_VOCAB = 65_536
# It is used while less than this share of the latest tokens is beyond it: of German 24 % are, of
# Russian and Chinese most, and a missing token costs more than a longer head.
RARE_SHARE = 1 / 16
_RARE_TOKENS = 64


class Drafts(Protocol):
    """A source of drafts, for one reply."""

    def begin(self, prompt: Sequence[int], cached: int) -> None:
        """Begin a reply to `prompt`, the first `cached` tokens of which are in the cache."""
        ...

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
        cache: the network's, which holds the head's state too. If that is not of all tokens in the
            cache, the head begins with the first token that it is given.
    """

    def __init__(self, network: Network, cache: Cache):
        assert network.mtp is not None
        assert cache.head is not None
        self._network = network
        self._head = network.mtp
        self._state = cache.head
        self._cache = cache
        # Not read by the head yet: rows of the network's output, and the tokens after them; that
        # after the last row may be unknown.
        self._hidden: list[mx.array] = []
        self._ids: list[int] = []
        self._end = 0  # tokens of the conversation up to that of the last row, read or not
        vocab, whole = network.config.vocab_size, network.config.shard is None
        self._short = (
            network.lm_head.first(SHORT_VOCAB) if whole and vocab >= 2 * SHORT_VOCAB else None
        )
        self._rare = 1.0  # share of the latest tokens that the shortened output head lacks

    def begin(self, prompt: Sequence[int], cached: int) -> None:
        state, self._end = self._state, cached
        self._hidden, self._ids = [], []
        if state.end != cached or state.hidden is None:
            state.clear()
            return
        self._hidden, self._ids = [state.hidden], [prompt[cached]]

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        assert hidden is not None
        self._add(ids, hidden)
        self._note_rare(ids)
        if len(self._ids) > _PENDING_ROWS:
            mx.async_eval(self._catch_up(len(self._ids) - 1))

    def end(self, ids: Sequence[int], hidden: mx.array) -> None:
        """Take note of the last tokens of the reply.

        Args:
            hidden: the network's output at the token before each of `ids`, and at the last one,
                [1, T + 1, hidden].
        """
        self._add(ids, hidden)

    def _add(self, ids: Sequence[int], hidden: mx.array) -> None:
        self._hidden.append(hidden)
        self._ids += ids
        self._end += hidden.shape[1]

    def save(self) -> None:
        """Bring the head's state in the cache to the cache's last token.

        Where the head was not given the network's output at it, the state stays behind.
        """
        if not self._hidden or self._end != self._cache.offset:
            return
        # A row of its own, which does not keep the outputs of a whole chunk in memory.
        last = self._hidden[-1][:, mx.array([-1])]
        if (count := sum(rows.shape[1] for rows in self._hidden) - 1) > 0:
            self._catch_up(count)
        self._state.keep(last, self._cache.offset)

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        drafts = mx.array([], mx.int32)
        if not self._ids:
            return drafts
        hidden = self._catch_up(len(self._ids))[:, -1:]
        short = self._short if self._rare < RARE_SHARE else None
        for i in range(count):
            if i:
                hidden = self._head(hidden, self._network.embed(drafts[None, -1:]), self._state.kv)
            logits = (self._network.logits(hidden) if short is None else short(hidden))[0]
            before = mx.concatenate([reply, drafts])
            drafts = mx.concatenate([drafts, sampler(logits, before, position + i)])
        if count > 1:
            self._state.kv.take_back(count - 1)
        return drafts

    def _catch_up(self, count: int) -> mx.array:
        """The head's output for the first `count` rows that it has not read, [1, count, hidden]."""
        hidden = mx.concatenate(self._hidden, axis=1)
        embedded = self._network.embed(self._network.token_array(self._ids[:count]))
        self._hidden = [hidden[:, count:]] if count < hidden.shape[1] else []
        self._ids = self._ids[count:]
        return self._head(hidden[:, :count], embedded, self._state.kv)

    def _note_rare(self, ids: Sequence[int]) -> None:
        share = sum(token >= SHORT_VOCAB for token in ids) / len(ids)
        self._rare += min(len(ids) / _RARE_TOKENS, 1) * (share - self._rare)


class CopyDrafts:
    """Drafts from the conversation: what followed the latest tokens where they stood before.

    Edits of pasted code and text repeat long pieces of it. The next reply of a conversation may use
    the same object: only what is new in its prompt is read.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        # Where each n-gram stood last: the index of the token that followed it.
        self._following: dict[int, int] = {}
        # The same for where it stood before that, by the place of the n-gram; None for nowhere.
        self._earlier: list[int | None] = []

    def begin(self, prompt: Sequence[int], cached: int) -> None:
        shared = _shared_length(self._ids, prompt)
        self._forget(shared)
        self.read(prompt[shared:])

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        before = self._ids[-NGRAM:]
        self._ids += ids
        # The last one of all has nothing behind it yet.
        following, earlier = self._following, self._earlier
        for place, ngram in enumerate(_ngrams([*before, *ids][:-1]), len(earlier)):
            earlier.append(following.get(ngram))
            following[ngram] = place + NGRAM

    def _forget(self, kept: int) -> None:
        """Forget all but the first `kept` tokens."""
        ngrams = _ngrams(self._ids[max(kept - NGRAM, 0) : -1])
        del self._ids[kept:]
        for ngram in reversed(ngrams):
            earlier = self._earlier.pop()
            if earlier is None:
                del self._following[ngram]
            else:
                self._following[ngram] = earlier

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


def _shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    start, length = 0, min(len(one), len(other))
    while start < length and one[start : start + _BLOCK] == other[start : start + _BLOCK]:
        start += _BLOCK
    return next((i for i in range(start, length) if one[i] != other[i]), length)


def _ngrams(ids: Sequence[int]) -> list[int]:
    """Every `NGRAM` neighbours in one number each; ids below 2 ** 21."""
    if len(ids) <= _FEW_IDS:
        triples = zip(ids, ids[1:], ids[2:], strict=False)
        return [(first << 42) + (second << 21) + third for first, second, third in triples]
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids, np.int64), NGRAM)
    return (windows << np.array([42, 21, 0])).sum(-1).tolist()
