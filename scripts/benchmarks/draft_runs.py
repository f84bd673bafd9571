"""Replies with and without drafts from one state of the prompt, for the benchmark `drafts`."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.model import Model
from scripts.benchmarks.draft_tasks import Question

CHUNK = 512
GREEDY = Sampling(temperature=0)


class CountingDrafter(Drafter):
    """Counts the passes of a reply by the source of their drafts, "" for those without."""

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self.sources: Counter[str] = Counter()

    def read(self, ids: Sequence[int], hidden: mx.array) -> None:
        self._count_pass()
        super().read(ids, hidden)

    def end(self, ids: Sequence[int], hidden: mx.array) -> None:
        if ids:
            self._count_pass()
        super().end(ids, hidden)

    def _count_pass(self) -> None:
        self.sources[self._running.source if self._running.count else ""] += 1


class GreedyHead(MTPDrafts):
    """Drafts by the head's own logits, also of a reply that is given."""

    def __init__(self, network: Network, cache: Cache):
        super().__init__(network, cache)
        self._greedy = Sampler(GREEDY, network.config.vocab_size)

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        return super().draft(count, self._greedy, reply, position)


class Given(Sampler):
    """The tokens of a given reply. What the network computes is waited for all the same."""

    def __init__(self, reply: Sequence[int], vocab_size: int):
        super().__init__(GREEDY, vocab_size)
        self._reply = mx.array([*reply, *[0] * 64], mx.int32)

    def __call__(
        self,
        logits: mx.array,
        reply: mx.array,
        position: int,
        drafts: mx.array | None = None,
        *,
        launch: bool = True,
    ) -> mx.array:
        own = super().__call__(logits, reply, position, drafts, launch=launch)
        return self._reply[position : position + logits.shape[0]] + 0 * own


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question whose prompt is read, but for the last token.

    Attributes:
        given: the tokens of a given reply; empty if the model replies.
    """

    prompt: list[int]
    read: Snapshot
    given: list[int]


@dataclass(frozen=True, slots=True)
class Written:
    """A reply, the seconds that it took, and its drafter; None without drafts."""

    ids: list[int]
    seconds: float
    drafter: CountingDrafter | None

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return len(self.ids) / self.seconds


def prepare(model: Model, question: Question) -> Prepared:
    """Read the prompt of a question; the MTP head, if there is one, reads it too."""
    network, cache = model.network, model.make_cache()
    prompt = question.prompt(model)
    head = None if network.mtp is None else MTPDrafts(network, cache)
    drafter = Drafter(head, None, PassCosts())
    drafter.begin(prompt, 0)

    def observe(hidden: mx.array, index: int) -> None:
        drafter.read_chunk(prompt[index + 1 : index + 1 + hidden.shape[1]], hidden)

    for _ in prefill(network, cache, prompt[:-1], CHUNK, observe):
        pass
    drafter.save()
    return Prepared(prompt, cache.snapshot(), model.tokenizer.encode(question.reply))


def make_drafter(
    mode: str, network: Network, cache: Cache, costs: PassCosts
) -> CountingDrafter | None:
    """The drafter of a reply in a mode of the benchmark; None for "off".

    Args:
        costs: of passes on this machine, for the mode auto.
    """
    if mode == "off":
        return None
    if mode == "copy":
        # As if every pass took as long.
        clock = itertools.count().__next__
        return CountingDrafter(None, CopyDrafts(), PassCosts(), clock=clock)
    head = None if network.mtp is None else GreedyHead(network, cache)
    if mode == "auto":
        return CountingDrafter(head, CopyDrafts(), costs)
    return CountingDrafter(head, None, PassCosts(), depth=int(mode))


def write(
    model: Model,
    asked: Prepared,
    tokens: int,
    make: Callable[[Cache], CountingDrafter | None],
    *,
    sampler: Sampler | None = None,
    eos: frozenset[int] = frozenset(),
) -> Written:
    """A reply of at most so many tokens.

    Args:
        sampler: greedy by default, or of the given reply.
        eos: tokens that end a reply that is not given.
    """
    network, cache = model.network, model.make_cache()
    vocab = network.config.vocab_size
    cache.restore(asked.read)
    drafter = make(cache)
    if drafter is not None:
        drafter.begin(asked.prompt, cache.offset)
    if asked.given:
        sampler, eos, tokens = Given(asked.given, vocab), frozenset(), min(tokens, len(asked.given))
    sampler = sampler or Sampler(GREEDY, vocab)
    reply: list[int] = []
    mx.synchronize()  # with the pass after the last token of the reply before
    started = time.perf_counter()
    stream = decode(network, cache, asked.prompt[-1:], sampler, drafter)
    for token in stream:
        reply.append(token)
        if len(reply) == tokens or token in eos:
            break
    seconds = time.perf_counter() - started
    stream.close()
    return Written(reply, seconds, drafter)
