"""Decode of several conversations at once: one token of each in a pass."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode import Reply, check_finite
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network


@dataclass(slots=True, eq=False)
class _Member:
    """A reply of the group.

    Attributes:
        next_token: sampled, and in no pass yet, [1] int32.
        logit_sum: of the logits that it was sampled from, [].
        launched: a token and its `logit_sum` that the latest pass has read, and that the caller
            does not have yet.
        error: why no token follows that one.
    """

    cache: Cache
    sampler: Sampler
    reply: Reply
    next_token: mx.array
    logit_sum: mx.array
    launched: tuple[mx.array, mx.array] | None = None
    error: BaseException | None = None


class DecodeGroup:
    """Replies that share the passes of a network, each with a cache and a sampler of its own.

    Weights are read once for all of them, so that a token of each takes little longer than a token
    of one. A reply may begin and end at any time. The callers take tokens in turns: a pass has a
    row of every reply whose last token was taken, so one that is not asked delays no other.

    Attributes:
        wanted: whether replies should join, and stay; whoever runs them sets it.
    """

    def __init__(self, network: Network):
        self._network = network
        self._members: list[_Member] = []
        self._stacks = network.make_stacks()
        self.wanted = False

    @property
    def open(self) -> bool:
        """Whether another reply should join, and can."""
        return self.wanted and len(self._members) < MAX_DECODE_TOKENS

    def decode(
        self, cache: Cache, newest: Sequence[int], sampler: Sampler, before: Sequence[int] = ()
    ) -> Generator[int]:
        """As `decode.decode`, of one reply of the group.

        It ends once replies should no longer join. Then the last token is taken back, so that
        another decode can begin with it.
        """
        assert len(self._members) < MAX_DECODE_TOKENS
        network = self._network
        reply = Reply(network, cache, sampler, before)
        first = reply.launch(network.token_array(newest)[0])
        member = _Member(cache, sampler, reply, first.tokens, first.logit_sums[0])
        self._members.append(member)
        try:
            while True:
                if member.launched is None:
                    if member.error is not None:
                        raise member.error
                    if not self.wanted and reply.length > len(before):
                        network.take_back(cache, 1)
                        return
                    self._launch()
                assert member.launched is not None
                token, logit_sum = member.launched
                check_finite(float(logit_sum), cache.offset - 2)
                member.launched = None
                yield int(token)
        finally:
            self._members.remove(member)
            if member.launched is not None:
                network.take_back(cache, 1)
            cache.leave_stack()

    def _launch(self) -> None:
        """Begin a pass over the next token of each reply whose last one was taken."""
        ready = [
            member for member in self._members if member.launched is None and member.error is None
        ]
        try:
            self._run(ready)
        except BaseException as error:
            # Some layers may be a token ahead of others: none of these can go on.
            for member in ready:
                member.error, member.launched = error, None
            raise

    def _run(self, ready: Sequence[_Member]) -> None:
        network = self._network
        tokens = mx.stack([member.next_token for member in ready])
        hidden = network.together(tokens, [member.cache for member in ready], self._stacks)
        logits = network.logits(hidden)[:, 0]
        sums = mx.sum(logits.astype(mx.float32), axis=-1)
        for i, member in enumerate(ready):
            member.reply.append(member.next_token)
            member.launched = member.next_token, member.logit_sum
            member.logit_sum = sums[i]
            try:
                member.next_token = member.reply.sample(logits[i : i + 1])
            except Qwen35Error as error:  # of its grammar: the others go on
                member.error = error
        mx.async_eval([member.next_token for member in ready], sums)
