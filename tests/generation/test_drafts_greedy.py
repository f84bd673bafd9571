"""Greedy replies of the demo model are token for token those without drafts, in float32.

By default few sources and one prompt. For a long run, with what was compared:

    QWEN35_DRAFT_PROMPTS=200 scripts/test tests/generation/test_drafts_greedy.py -s
"""

import itertools
import os
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import mlx.core as mx
import pytest

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from scripts.demo_training.dialogues import Mix, generate
from scripts.demo_training.turns import Dialogue

PROMPTS = int(os.environ.get("QWEN35_DRAFT_PROMPTS", "1"))
TOKENS = 128 if PROMPTS > 1 else 32  # after a prompt, in two replies
CHUNKS = (5, 32, 512)  # tokens of prefill, by the number of the prompt
FOLLOW_UP = 8  # tokens of the prompt's end, between the replies


def erratic_clock() -> Callable[[], float]:
    """Passes take times that mean nothing, so that every source and depth is chosen."""
    rng, now = random.Random(1), 0.0

    def clock() -> float:
        nonlocal now
        now += rng.random()
        return now

    return clock


def equal_clock() -> Callable[[], float]:
    """Every pass takes as long, so that all that can be copied is drafted."""
    return itertools.count().__next__


def copying(network: Network, cache: Cache, costs: PassCosts) -> Drafter:
    return Drafter(None, CopyDrafts(), costs, clock=equal_clock())


def adapting(network: Network, cache: Cache, costs: PassCosts) -> Drafter:
    return Drafter(MTPDrafts(network, cache), CopyDrafts(), costs, clock=erratic_clock())


def of_depth(depth: int) -> Callable[[Network, Cache, PassCosts], Drafter]:
    return lambda network, cache, costs: Drafter(
        MTPDrafts(network, cache), None, costs, depth=depth
    )


SOURCES = {
    **{f"depth {depth}": of_depth(depth) for depth in range(1, 7)},
    "copies": copying,
    "auto": adapting,
}


@dataclass(slots=True)
class Writer:
    """Greedy replies of a network.

    Attributes:
        chunk: tokens of prefill.
        drafter: for a reply with this cache; None decodes one token a pass.
        drafters: those of the replies so far.
    """

    network: Network
    chunk: int
    drafter: Callable[[Cache], Drafter | None]
    drafters: list[Drafter] = field(default_factory=list)

    def read(self, cache: Cache, prompt: Sequence[int]) -> Drafter | None:
        """Add to the cache what it lacks of the prompt, except for the last token."""
        start, drafter = cache.offset, self.drafter(cache)

        def observe(hidden: mx.array, index: int) -> None:
            if drafter is not None:
                following = start + index + 1
                drafter.read_chunk(prompt[following : following + hidden.shape[1]], hidden)

        if drafter is not None:
            drafter.begin(prompt, start)
        for _ in prefill(self.network, cache, prompt[start:-1], self.chunk, observe):
            pass
        return drafter

    def write(self, cache: Cache, prompt: Sequence[int], tokens: int) -> list[int]:
        """A reply, cancelled after so many tokens, wherever in a pass that is."""
        drafter = self.read(cache, prompt)
        sampler = Sampler(Sampling(temperature=0), self.network.config.vocab_size)
        stream = decode(self.network, cache, prompt[-1:], sampler, drafter)
        found = list(islice(stream, tokens))
        stream.close()
        if drafter is not None:
            drafter.save()
            self.drafters.append(drafter)
        return found

    def replies(self, cache: Cache, prompt: Sequence[int], first: int) -> list[int]:
        """A reply and, resumed in another cache, one to a longer prompt; together `TOKENS`."""
        found = self.write(cache, prompt, first)
        resumed = self.network.make_cache()
        resumed.restore(cache.snapshot())
        longer = [*prompt, *found, *prompt[-FOLLOW_UP:]]
        return found + self.write(resumed, longer, TOKENS - first)


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, the state after all of it but the last token, and the replies without drafts.

    Attributes:
        first: tokens of the first reply.
    """

    prompt: list[int]
    chunk: int
    first: int
    prefilled: Snapshot
    replies: list[int]


def make_case(model: Model, dialogue: Dialogue, number: int) -> Case:
    network, chunk = model.network, CHUNKS[number % len(CHUNKS)]
    prompt = model.render(
        dialogue.messages[:-1], thinking=dialogue.thinking, tools=dialogue.tools or None
    )
    first = TOKENS // 2 + number % 7
    replies = Writer(network, chunk, lambda _: None).replies(network.make_cache(), prompt, first)
    cache = network.make_cache()
    reader = Writer(network, chunk, lambda cache: SOURCES["depth 1"](network, cache, PassCosts()))
    drafter = reader.read(cache, prompt)
    assert drafter is not None
    drafter.save()
    return Case(prompt, chunk, first, cache.snapshot(), replies)


@pytest.fixture(scope="module")
def demo() -> Generator[Model]:
    with load("demo", dtype="float32") as model:
        yield model


@pytest.fixture(scope="module")
def cases(demo: Model) -> list[Case]:
    dialogues = islice(generate(7, Mix(turns=2, sentences=6), held_out=True), PROMPTS)
    return [make_case(demo, dialogue, number) for number, dialogue in enumerate(dialogues)]


@pytest.mark.parametrize("source", SOURCES if PROMPTS > 1 else ("depth 3", "copies", "auto"))
def test_replies_of_the_demo_are_those_without_drafts(demo, cases, source):
    """Across chunks of prefill, a cancelled reply, and a resumed state."""
    costs, network = PassCosts(), demo.network
    passes = drafted = accepted = tokens = 0
    different: list[tuple[int, int]] = []  # the prompt, and the first token
    for number, case in enumerate(cases):
        writer = Writer(network, case.chunk, lambda cache: SOURCES[source](network, cache, costs))
        cache = network.make_cache()
        cache.restore(case.prefilled)
        found = writer.replies(cache, case.prompt, case.first)
        tokens += len(found)
        for drafter in writer.drafters:
            passes += drafter.passes
            drafted += drafter.drafted
            accepted += drafter.accepted
        pairs = enumerate(zip(found, case.replies, strict=True))
        different += [(number, place) for place, (a, b) in pairs if a != b][:1]
    print(
        f"{source}: {tokens} tokens after {len(cases)} prompts, {passes} passes with drafts, "
        f"{accepted} of {drafted} accepted; {len(different)} replies differ"
    )
    assert accepted > 0
    assert different == []
