"""Which source drafts and how many tokens, by what has paid off on this machine so far."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import mlx.core as mx

from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.sampler import Sampler

MAX_DEPTH = 6  # drafts of the MTP head in a pass
MAX_COPIED = 16
# Tokens without drafts after which drafting is tried again, where it lost; doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 32, 512
# Tokens without drafts that are timed at first, and again after this many with drafts: the time of
# a pass grows with the context.
TIMED_TOKENS, TIMED_EVERY = 6, 512
# The first passes of a kind are not timed: kernels are compiled and graphs recorded.
UNTIMED_PASSES = 2
# Weight of the newest pass in an acceptance; and where the others were before a pause.
_NEWEST, _NEWEST_AFTER_PAUSE = 0.1, 0.5


class PassCosts:
    """Seconds of a pass by its drafts, on this machine; kept from one reply to the next."""

    def __init__(self) -> None:
        self._passes: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._seconds: defaultdict[tuple[str, int], deque[float]] = defaultdict(
            lambda: deque(maxlen=9)
        )

    def add(self, source: str, drafts: int, seconds: float) -> None:
        key = source, drafts
        self._passes[key] += 1
        if self._passes[key] > UNTIMED_PASSES:
            self._seconds[key].append(seconds)

    def known(self, source: str, drafts: int) -> bool:
        return bool(self._seconds[source, drafts])

    def seconds(self, source: str, drafts: int) -> float:
        """The median of the latest; for a kind that was not timed yet, a hopeful guess."""
        if times := self._seconds[source, drafts]:
            return median(times)
        single = self._seconds["", 0]
        return (median(single) if single else 1.0) * (1 + 0.05 * drafts)


@dataclass(slots=True)
class _Acceptance:
    """How often drafts of a source are the network's own tokens, by their place in the draft.

    Attributes:
        shares: of the drafts at each place, where all before were accepted.
        old: whether the latest pass was before a pause.
    """

    prior: float
    shares: list[float] = field(default_factory=list)
    old: bool = False

    def record(self, drafted: int, accepted: int) -> None:
        weight, self.old = _NEWEST_AFTER_PAUSE if self.old else _NEWEST, False
        for place in range(min(accepted + 1, drafted)):
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
        self._sources = {name: s for name, s in (("mtp", mtp), ("copy", copies)) if s is not None}
        self._mtp, self._copies = mtp, copies
        self._costs = costs
        self._depth = depth
        self._clock = clock
        self._head = _Acceptance(0.7)
        # Of copies, by how long a piece they continue: longer ones are accepted more often.
        self._copied: defaultdict[int, _Acceptance] = defaultdict(lambda: _Acceptance(0.7))
        self._running = ("", 0, 0)  # the drafts of the pass in progress: source, count, piece
        self._read_at: float | None = None
        self._without = 0 if costs.known("", 0) else TIMED_TOKENS
        self._pause = FIRST_PAUSE
        self._since_timed = 0
        self.drafted = self.accepted = self.passes = 0

    @property
    def wants_to_draft(self) -> bool:
        """Whether the next pass may have drafts. If not, `draft` need not be called for it."""
        if self._depth is not None:
            return self._depth > 0
        return self._piece_to_copy() > 0 or (self._mtp is not None and not self._without)

    def read_rows(self, ids: Sequence[int], hidden: mx.array) -> None:
        """Take note of a part of the prompt that is prefilled, in order: see `Drafts.read`."""
        if self._mtp is not None:
            self._mtp.read(ids, hidden)

    def read_prompt(self, ids: Sequence[int]) -> None:
        """Take note of the whole prompt, whether it is prefilled or restored."""
        if self._copies is not None:
            self._copies.read(ids)

    def read(self, ids: Sequence[int], hidden: mx.array) -> None:
        """Take note of the tokens of a pass, and of what came of its drafts."""
        source, drafted, piece = self._running
        self._running = ("", 0, 0)
        now = self._clock()
        if self._read_at is not None:
            self._costs.add(source, drafted, now - self._read_at)
        self._read_at = now
        if drafted:
            accepted = len(ids) - 1
            of = self._head if source == "mtp" else self._copied[piece]
            of.record(drafted, accepted)
            self.passes += 1
            self.drafted += drafted
            self.accepted += accepted
        self._without = max(self._without - 1, 0)
        self._since_timed += len(ids)
        for one in self._sources.values():
            one.read(ids, hidden)

    def draft(self, sampler: Sampler, reply: mx.array, position: int) -> mx.array | None:
        """Drafts for the next pass, [n] int32; None for a pass without. As `Drafts.draft`."""
        source, count, piece = self._choice()
        if not count:
            return None
        drafts = self._sources[source].draft(count, sampler, reply, position)
        self._running = source, drafts.size, piece
        return drafts

    def _choice(self) -> tuple[str, int, int]:
        """The source and the number of drafts that promise the most tokens a second."""
        if self._depth is not None:
            return ("mtp", self._depth, 0) if self._mtp is not None else ("", 0, 0)
        best, choice = 1 / self._costs.seconds("", 0), ("", 0, 0)
        if piece := self._piece_to_copy():
            copied = self._copied[piece]
            for count in (2, 4, 7, MAX_COPIED):
                rate = copied.tokens(count) / self._costs.seconds("copy", count)
                if rate > best:
                    best, choice = rate, ("copy", count, piece)
        if self._mtp is None or self._without:
            return choice
        if self._since_timed >= TIMED_EVERY:
            self._since_timed, self._without = 0, TIMED_TOKENS
            return "", 0, 0
        gains = False
        for count in range(1, MAX_DEPTH + 1):
            rate = self._head.tokens(count) / self._costs.seconds("mtp", count)
            gains = gains or rate > 1 / self._costs.seconds("", 0)
            if rate > best:
                best, choice = rate, ("mtp", count, 0)
        if gains:
            self._pause = FIRST_PAUSE
        else:
            # One pass, to see whether it would gain now; then a pause.
            self._without, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            self._head.old = True
            return ("mtp", 1, 0) if choice[0] != "copy" else choice
        return choice

    def _piece_to_copy(self) -> int:
        """How long a piece the conversation repeats now, as a class of lengths; 0 for none."""
        if self._copies is None:
            return 0
        length = self._copies.repeated
        return 0 if not length else min(length.bit_length(), 5)
