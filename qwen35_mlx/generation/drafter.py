"""Which source drafts and how many tokens, by what has paid off on this machine so far."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import mlx.core as mx

from qwen35_mlx.generation.drafts import CopyDrafts, Drafts, MTPDrafts
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS

MAX_DEPTH = 6  # drafts of the MTP head in a pass
# Copied tokens in a pass. The last of them takes the kernels of a prefill.
COPY_COUNTS = (2, 4, MAX_DECODE_TOKENS - 1, 16)
# Tokens without drafts after which drafting is tried again, where it lost; doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 32, 512
# Tokens without drafts that are timed at first, and again after this many with drafts: the time of
# a pass grows with the context.
TIMED_TOKENS, TIMED_EVERY = 6, 512
# The first passes of a kind are not timed: kernels are compiled and graphs recorded.
UNTIMED_PASSES = 2
# The time of a pass without drafts is that behind up to twice as many tokens, or half. Below this
# many, the context hardly matters.
NEAR_TOKENS = 4096
# What a draft adds to the time of a pass, as a share of a pass without, until it is known. A CPU
# takes as long for each token of a pass.
HOPEFUL, CPU_HOPEFUL = 0.05, 1.0
# Least weight of the newest pass in a running share.
_NEWEST = 0.1


class PassCosts:
    """Seconds between passes by their drafts, the caller's handling of tokens included.

    Kept from one reply to the next.

    Args:
        hopeful: what a draft adds to the time of a pass until it is known, as a share of one
            without.
    """

    def __init__(self, hopeful: float = HOPEFUL) -> None:
        self._hopeful = hopeful
        self._passes: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._seconds: defaultdict[tuple[str, int], deque[float]] = defaultdict(
            lambda: deque(maxlen=9)
        )
        self._single_context = 0

    def add(self, source: str, drafts: int, seconds: float, context: int = 0) -> bool:
        """Take note of a pass behind `context` tokens.

        Returns whether it counts: the first passes of a kind do not.
        """
        key = source, drafts
        self._passes[key] += 1
        if self._passes[key] <= UNTIMED_PASSES:
            return False
        self._seconds[key].append(seconds)
        if not drafts:
            self._single_context = context
        return True

    def single_known_at(self, context: int) -> bool:
        """Whether passes without drafts were timed last behind about as many tokens."""
        ratio = (context + NEAR_TOKENS) / (self._single_context + NEAR_TOKENS)
        return self.known("", 0) and 0.5 <= ratio <= 2

    def known(self, source: str, drafts: int) -> bool:
        return bool(self._seconds[source, drafts])

    def seconds(self, source: str, drafts: int) -> float:
        """The median of the latest; for a kind that was not timed yet, a guess.

        Between kinds that were, as much as drafts on a line between them; else a hopeful one.
        """
        if times := self._seconds[source, drafts]:
            return median(times)
        single = self._seconds["", 0]
        timed = {0: median(single) if single else 1.0} | {
            count: median(times)
            for (kind, count), times in self._seconds.items()
            if kind == source and times
        }
        if not drafts:
            return timed[0]
        fewer = max(count for count in timed if count < drafts)
        more = min((count for count in timed if count > drafts), default=None)
        hopeful = timed[fewer] + self._hopeful * timed[0] * (drafts - fewer)
        if more is None:
            return hopeful
        share = (drafts - fewer) / (more - fewer)
        return max(hopeful, timed[fewer] + share * (timed[more] - timed[fewer]))


@dataclass(slots=True)
class _Acceptance:
    """How often drafts of a source are the network's own tokens, by their place in the draft.

    Attributes:
        shares: of the drafts at each place, where all before were accepted.
        passes: since the beginning or a pause. The first ones weigh more: what was known before
            may hold no longer.
    """

    prior: float
    shares: list[float] = field(default_factory=list)
    passes: int = 0

    def record(self, drafted: int, accepted: int) -> None:
        self.passes += 1
        for place in range(min(accepted + 1, drafted)):
            weight = _NEWEST if place else max(1 / (self.passes + 1), _NEWEST)
            if place == len(self.shares):
                self.shares.append(self.share(place))
            hit = float(place < accepted)
            self.shares[place] += weight * (hit - self.shares[place])

    def share(self, place: int) -> float:
        if place < len(self.shares):
            return self.shares[place]
        return self.shares[-1] if self.shares else self.prior

    def tokens(self, drafts: int) -> float:
        """Expected tokens of a pass."""
        expected, reached = 1.0, 1.0
        for place in range(drafts):
            reached *= self.share(place)
            expected += reached
        return expected


@dataclass(frozen=True, slots=True)
class _Plan:
    """The drafts of a pass.

    Attributes:
        source: "mtp" or "copy"; "" for none.
        count: of tokens to draft.
        match: of a copy, how much of the conversation is repeated, as a class.
    """

    source: str = ""
    count: int = 0
    match: int = 0


class Drafter:
    """Drafts for one reply.

    Args:
        mtp: the MTP head's drafts; None without a head.
        copies: drafts from the conversation.
        costs: of passes on this machine, which are read and added to.
        depth: how many tokens the MTP head always drafts; None for as many as are fastest.
        clock: seconds.

    Attributes:
        drafted, accepted: tokens so far.
        passes: with drafts, so far.
    """

    def __init__(
        self,
        mtp: MTPDrafts | None,
        copies: CopyDrafts | None,
        costs: PassCosts,
        *,
        depth: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._mtp, self._copies = mtp, copies
        self._sources: dict[str, Drafts] = {}
        if mtp is not None:
            self._sources["mtp"] = mtp
        if copies is not None:
            self._sources["copy"] = copies
        self._costs = costs
        self._depth = depth
        self._clock = clock
        self._head = _Acceptance(0.7)
        # Of copies, by `_match`: those of long repetitions are accepted more often.
        self._copied: defaultdict[int, _Acceptance] = defaultdict(lambda: _Acceptance(0.7))
        self._running = _Plan()  # of the pass in progress
        self._read_at: float | None = None
        self._pause_left = 0 if costs.known("", 0) else TIMED_TOKENS
        self._pause = FIRST_PAUSE
        self._since_timed = 0
        self._context = 0
        # Of the passes that could be timed, and how many of those had drafts.
        self._timed_tokens, self._timed_seconds, self._timed_passes = 0, 0.0, 0
        self.drafted = self.accepted = self.passes = 0

    @property
    def speedup(self) -> float | None:
        """How many times as fast as without drafts the reply is so far, by the clock.

        None if passes without drafts were not timed, or fewer than half of those with drafts.
        """
        if 2 * self._timed_passes < max(self.passes, 1):
            return None
        if not self._costs.single_known_at(self._context):
            return None
        return self._timed_tokens * self._costs.seconds("", 0) / self._timed_seconds

    @property
    def wants_to_draft(self) -> bool:
        """Whether the next pass may have drafts. If not, `draft` need not be called for it."""
        if self._depth is not None:
            return self._mtp is not None
        return self._match > 0 or (self._mtp is not None and not self._pause_left)

    def begin(self, prompt: Sequence[int], cached: int) -> None:
        """Begin the reply to `prompt`, the first `cached` tokens of which are in the cache.

        It may begin again, after tokens that it has not drafted; then they are part of `prompt`.
        """
        self._context = len(prompt)
        self._running, self._read_at = _Plan(), None
        if not self._costs.single_known_at(self._context):
            self._pause_left = TIMED_TOKENS
        for source in self._sources.values():
            source.begin(prompt, cached)

    def read_chunk(self, ids: Sequence[int], hidden: mx.array) -> None:
        """Take note of a part of the prompt that is prefilled, in order.

        Args:
            ids, hidden: as for `Drafts.read`.
        """
        if self._mtp is not None:
            self._mtp.read(ids, hidden)

    def read(self, ids: Sequence[int], hidden: mx.array) -> None:
        """Take note of the tokens of a pass, and of what came of its drafts."""
        plan, self._running = self._running, _Plan()
        now = self._clock()
        if self._read_at is not None:
            seconds = now - self._read_at
            if self._costs.add(plan.source, plan.count, seconds, self._context):
                self._timed_tokens += len(ids)
                self._timed_seconds += seconds
                self._timed_passes += plan.count > 0
        self._read_at = now
        self._context += len(ids)
        if plan.count:
            self._acceptance(plan).record(plan.count, len(ids) - 1)
            self._count(plan, len(ids) - 1)
        self._pause_left = max(self._pause_left - 1, 0)
        self._since_timed += len(ids)
        for one in self._sources.values():
            one.read(ids, hidden)

    def end(self, ids: Sequence[int], hidden: mx.array) -> None:
        """Take note of the accepted drafts with which the reply ends.

        Args:
            ids: of the last pass; none if the reply ends with a token that the network sampled.
            hidden: the network's output at the token before each of them, and at the last one.
        """
        if ids:
            self._count(self._running, len(ids))
        if self._mtp is not None:
            self._mtp.end(ids, hidden)

    def save(self) -> None:
        """Bring what the MTP head keeps in the network's cache to the cache's last token."""
        if self._mtp is not None:
            self._mtp.save()

    def _count(self, plan: _Plan, accepted: int) -> None:
        self.passes += 1
        self.drafted += plan.count
        self.accepted += accepted

    def draft(self, sampler: Sampler, reply: mx.array, position: int) -> mx.array | None:
        """Drafts for the next pass, [n] int32; None for a pass without. As `Drafts.draft`."""
        plan = self._plan()
        if not plan.count:
            return None
        drafts = self._sources[plan.source].draft(plan.count, sampler, reply, position)
        self._running = replace(plan, count=drafts.size)
        return drafts

    def _plan(self) -> _Plan:
        """What promises the most tokens a second.

        Where the head loses, a pause begins; where timings are old, a run without drafts.
        """
        if self._depth is not None:
            return _Plan("mtp", self._depth)
        match = self._match
        copied = self._best([_Plan("copy", n, match) for n in COPY_COUNTS] if match else [])
        if self._mtp is None or self._pause_left:
            return copied
        if self._since_timed >= TIMED_EVERY:
            self._since_timed, self._pause_left = 0, TIMED_TOKENS
            return _Plan()
        drafted = self._best([_Plan("mtp", n) for n in range(1, MAX_DEPTH + 1)])
        if drafted.count:
            self._pause = FIRST_PAUSE
            return max(drafted, copied, key=self._rate)
        # One pass, to see whether it would gain now; then a pause.
        self._pause_left, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        self._head.passes = 0
        return copied if copied.count else _Plan("mtp", 1)

    def _best(self, plans: Sequence[_Plan]) -> _Plan:
        """The plan with the highest rate; one without drafts if that is faster than all."""
        return max([_Plan(), *plans], key=self._rate)

    def _rate(self, plan: _Plan) -> float:
        """Expected tokens a second."""
        tokens = self._acceptance(plan).tokens(plan.count) if plan.count else 1.0
        return tokens / self._costs.seconds(plan.source, plan.count)

    def _acceptance(self, plan: _Plan) -> _Acceptance:
        return self._head if plan.source == "mtp" else self._copied[plan.match]

    @property
    def _match(self) -> int:
        """How much of the conversation's end stood in it before, as a class; 0 for too little."""
        if self._copies is None:
            return 0
        return min(self._copies.match_length.bit_length(), 5)
