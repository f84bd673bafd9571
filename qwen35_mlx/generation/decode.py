"""Decode: the tokens of a reply, one or several a pass of the network."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.drafter import Drafter
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network

# Bytes of keys and values up to which the next step is launched while the current one runs, where
# the cache has no tail (`KVCache.append_to_tail`). MLX appends in place only if no running step
# still reads the array, and copies all of it otherwise. Copying this much takes 1.3 ms at 400 GB/s;
# the launch overhead of a step of the 4B size was 2 ms on an H200.
OVERLAP_LIMIT = 256 << 20


def decode(
    network: Network,
    cache: Cache,
    newest: Sequence[int],
    sampler: Sampler,
    drafter: Drafter | None = None,
    before: Sequence[int] = (),
    *,
    revocable: bool = False,
) -> Generator[int]:
    """Tokens that follow `newest`, at least one token, which the cache must not hold yet.

    Endless: the caller stops the iteration, and closes it. The cache then holds exactly the tokens
    that were yielded. While the caller handles a token the device already computes further ones.

    Args:
        drafter: guesses tokens that are verified together; None computes one a pass. The tokens
            are the same, up to rounding.
        before: the tokens of the reply so far; none if `newest` ends the prompt.
        revocable: whether `Network.take_back` may remove the last token when it is closed.

    Raises:
        Qwen35Error: one of `newest` has no embedding, or the logits are not finite.
    """
    reply = Reply(network, cache, sampler, before, revocable)
    running = reply.launch(network.token_array(newest)[0])
    if drafter is not None and running.earlier is not None:
        drafter.read_chunk(newest[1:], running.earlier)
    while True:
        following = None
        if drafter is None or (running.drafts is None and not drafter.wants_to_draft):
            # Before anything of the running pass is waited for.
            reply.append(running.tokens)
            following = reply.launch(running.tokens)
        accepted, token = reply.wait(running)
        kept = 0
        try:
            for draft in accepted:
                kept += 1
                yield draft
        except GeneratorExit:
            if drafter is not None:
                drafter.end(accepted[:kept], running.hidden[:, : kept + 1])
            raise
        finally:
            network.take_back(cache, running.draft_count - kept)
        if drafter is not None:
            drafter.read([*accepted, token], running.hidden[:, : kept + 1])
        if following is None:
            assert drafter is not None
            taken = mx.array([*accepted, token], mx.int32)
            reply.append(taken)
            following = reply.launch(taken[-1:], drafter.draft(sampler, reply.ids, reply.length))
        try:
            yield token
        except GeneratorExit:
            network.take_back(cache, following.draft_count)
            if drafter is not None:
                drafter.end([], following.hidden[:, :1])
            raise
        running = following


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass of the network over the newest token, drafts of those after it and known ones before.

    Attributes:
        offset: position of the newest token in the cache.
        drafts: [T - 1]; None if T is 1.
        earlier: the network's output at the tokens before the newest one, [1, n, hidden]; None for
            none.
        hidden: the network's output at the others, [1, T, hidden].
        tokens: sampled from it, [T].
        logit_sums: [T], not finite as soon as one logit is NaN or infinite, and cheaper to read
            than all of them.
    """

    offset: int
    drafts: mx.array | None
    earlier: mx.array | None
    hidden: mx.array
    tokens: mx.array
    logit_sums: mx.array

    @property
    def draft_count(self) -> int:
        return 0 if self.drafts is None else self.drafts.size


class Reply:
    """A reply in progress.

    Attributes:
        length: number of its tokens.
        ids: these tokens, [length] int32, if the sampler reads them; else empty.
    """

    def __init__(
        self,
        network: Network,
        cache: Cache,
        sampler: Sampler,
        before: Sequence[int],
        revocable: bool = False,
    ):
        self._revocable = revocable
        self._network = network
        self._cache = cache
        self._sampler = sampler
        self.ids = mx.array([*before] if sampler.reads_reply else [], dtype=mx.int32)
        self.length = len(before)

    def append(self, tokens: mx.array) -> None:
        """Add sampled tokens, [n] int32."""
        self.length += tokens.size
        if self._sampler.reads_reply:
            self.ids = mx.concatenate([self.ids, tokens])

    def launch(self, newest: mx.array, drafts: mx.array | None = None) -> _Pass:
        """Begin a pass over the newest tokens, [n], which the cache does not hold, and drafts."""
        if self._cache.append_target_nbytes > OVERLAP_LIMIT:
            mx.synchronize()
        if drafts is not None and not drafts.size:
            drafts = None
        rows = newest if drafts is None else mx.concatenate([newest, drafts])
        revocable = self._revocable or drafts is not None
        hidden, earlier = self._network(rows[None], self._cache, revocable=revocable), None
        if known := newest.size - 1:
            earlier, hidden = hidden[:, :known], hidden[:, known:]
        logits = self._network.logits(hidden)[0]
        sums = mx.sum(logits.astype(mx.float32), axis=-1)
        tokens = self.sample(logits, drafts)
        mx.async_eval(tokens, sums, *([] if drafts is None else [drafts]))
        offset = self._cache.offset - hidden.shape[1]
        return _Pass(offset, drafts, earlier, hidden, tokens, sums)

    def sample(self, logits: mx.array, drafts: mx.array | None = None) -> mx.array:
        """The tokens after those appended, as `Sampler.__call__`."""
        # On a CPU, MLX holds whoever launches a pass until little of it is left, and one without
        # drafts takes 2 % longer in several parts.
        launch = drafts is not None or gpu_kernel.on_gpu()
        return self._sampler(logits, self.ids, self.length, drafts, launch=launch)

    def wait(self, running: _Pass) -> tuple[list[int], int]:
        """The drafts that the network samples too, and the token that it samples after them."""
        tokens = np.array(running.tokens).tolist()
        drafts = [] if running.drafts is None else np.array(running.drafts).tolist()
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == tokens[accepted]:
            accepted += 1
        sums = np.array(running.logit_sums).tolist()
        for row in range(accepted + 1):
            check_finite(sums[row], running.offset + row)
        return drafts[:accepted], tokens[accepted]


def check_finite(logit_sum: float, position: int) -> None:
    """Refuse what was sampled from the logits at a position if one of them is NaN or infinite.

    Raises:
        Qwen35Error: one of them is.
    """
    if not math.isfinite(logit_sum):
        raise Qwen35Error(
            f"the network computed logits that are not finite at position {position}: the weights "
            "are damaged or overflow in this dtype; convert with --dtype bfloat16"
        )
