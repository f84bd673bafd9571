"""Decode: the tokens of a reply, one or several a pass of the network."""

import math
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation import building
from qwen35_mlx.generation.drafter import Drafter
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.cache import Cache, LastPasses
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
    try:
        yield from _tokens(reply, newest, drafter)
    finally:
        reply.forget_built()


def _tokens(reply: "Reply", newest: Sequence[int], drafter: Drafter | None) -> Generator[int]:
    """`decode`, but for a pass that may be left built and not begun."""
    network, cache, sampler = reply.network, reply.cache, reply.sampler
    running = reply.launch(network.token_array(newest)[0])
    if drafter is not None and running.earlier is not None:
        drafter.read_chunk(newest[1:], running.earlier)
    while True:
        following = None
        drafts_next = drafter is not None and drafter.wants_to_draft
        if reply.is_ahead or (running.drafts is None and not drafts_next):
            # Before anything of the running pass is waited for.
            following = reply.follow(running, ahead=not drafts_next)
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

    def begin(self) -> None:
        """Let the device compute it."""
        mx.async_eval(self.tokens, self.logit_sums, *([] if self.drafts is None else [self.drafts]))


class Reply:
    """A reply in progress.

    Attributes:
        length: number of its tokens.
        ids: these tokens, [length] int32, if the sampler reads them; else empty.

    Both count the tokens of passes that are built ahead.
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
        self.network = network
        self.cache = cache
        self.sampler = sampler
        self._built: Future[_Pass] | None = None
        self._passes_before: LastPasses = ()  # `Cache.last_passes` before that one
        self.ids = mx.array([*before] if sampler.reads_reply else [], dtype=mx.int32)
        self.length = len(before)

    def append(self, tokens: mx.array) -> None:
        """Add sampled tokens, [n] int32."""
        self.length += tokens.size
        if self.sampler.reads_reply:
            self.ids = mx.concatenate([self.ids, tokens])

    def launch(self, newest: mx.array, drafts: mx.array | None = None) -> _Pass:
        """Begin a pass over the newest tokens, [n], which the cache does not hold, and drafts."""
        if self.cache.append_target_nbytes > OVERLAP_LIMIT:
            mx.synchronize()
        if drafts is not None and not drafts.size:
            drafts = None
        built = self._build(newest, drafts, revocable=self._revocable or drafts is not None)
        built.begin()
        return built

    def follow(self, running: _Pass, *, ahead: bool) -> _Pass:
        """Begin the pass after a running one that has no drafts.

        Args:
            ahead: whether the one after it may be built meanwhile. Then that one is the next, too.
        """
        if self._built is None:
            self.append(running.tokens)
            following = self._build(running.tokens, None, revocable=self._revocable)
        else:
            following, self._built = self._built.result(), None
        if self.cache.append_target_nbytes > OVERLAP_LIMIT:
            mx.synchronize()
        elif ahead and self._may_build_ahead:
            self.append(following.tokens)
            self._passes_before = self.cache.last_passes
            build = partial(self._build, following.tokens, None, revocable=True)
            self._built = building.submit(build)
        following.begin()
        return following

    @property
    def is_ahead(self) -> bool:
        """Whether a pass is built, or being built, that is not begun."""
        return self._built is not None

    def forget_built(self) -> None:
        """Remove the pass that is not begun from the cache. The reply cannot go on then."""
        if self._built is not None:
            self._built.result()
            self._built = None
            self.network.take_back(self.cache, 1)
            self.cache.last_passes = self._passes_before

    @property
    def _may_build_ahead(self) -> bool:
        return (
            building.applies()
            and not self.sampler.waits
            # The exchanges of several processes begin while a pass is built.
            and self.network.parallel.group is None
        )

    def _build(self, newest: mx.array, drafts: mx.array | None, *, revocable: bool) -> _Pass:
        """The pass that `launch` begins."""
        rows = newest if drafts is None else mx.concatenate([newest, drafts])
        hidden, earlier = self.network(rows[None], self.cache, revocable=revocable), None
        if known := newest.size - 1:
            earlier, hidden = hidden[:, :known], hidden[:, known:]
        logits = self.network.logits(hidden)[0]
        sums = mx.sum(logits.astype(mx.float32), axis=-1)
        tokens = self.sample(logits, drafts)
        offset = self.cache.offset - hidden.shape[1]
        return _Pass(offset, drafts, earlier, hidden, tokens, sums)

    def sample(self, logits: mx.array, drafts: mx.array | None = None) -> mx.array:
        """The tokens after those appended, as `Sampler.__call__`."""
        # On a CPU, MLX holds whoever launches a pass until little of it is left, and one without
        # drafts takes 2 % longer in several parts.
        launch = drafts is not None or gpu_kernel.on_gpu()
        return self.sampler(logits, self.ids, self.length, drafts, launch=launch)

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
