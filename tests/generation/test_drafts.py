"""Decoding with drafts: the same tokens and states as without, from every source and depth."""

from collections.abc import Sequence
from functools import cache as remembered
from itertools import islice
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.generation import drafts as drafting
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.cache import Cache, DeltaState, Snapshot
from qwen35_mlx.model.kv_cache import KVCache
from tests.goldens import expected, network

GREEDY = Sampling(temperature=0)
SAMPLINGS = {
    "greedy": GREEDY,
    "top-k": Sampling(1.0, 0.95, 20),
    "all": Sampling(0.7, 1.0, 0),
    "presence": Sampling(1.0, 0.95, 20, 0.0, 1.5),
    "repetition": Sampling(0.8, 1.0, 0, 0.0, 0.0, 1.3),
}
TOKENS = 16


class Script:
    """Drafts as they are written: what it drafts at each position of the reply."""

    def __init__(self, script: Sequence[Sequence[int]]):
        self.script, self.read_ids = script, list[int]()

    def end(self, ids: Sequence[int], hidden: mx.array) -> None:
        assert hidden.shape[1] == len(ids) + 1

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        assert hidden is not None
        assert hidden.shape[1] == len(ids)
        self.read_ids += ids

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        assert position == len(self.read_ids)
        drafts = self.script[position] if position < len(self.script) else ()
        return mx.array(np.array(drafts[:count], np.int32))


@remembered
def after_prompt(name: str) -> Snapshot:
    """The state after all but the last token of the golden's prompt."""
    prompt = expected(name)["prompt"].tolist()
    return prefill_with(name, prompt, network(name, mtp=True).make_cache()).snapshot()


def prefilled(name: str) -> Cache:
    cache = network(name, mtp=True).make_cache()
    cache.restore(after_prompt(name))
    return cache


@remembered
def plain_reply(name: str, sampling: str) -> tuple[list[int], Cache]:
    """The reply without drafts, and the cache after it."""
    return reply(name, SAMPLINGS[sampling], None, cache := prefilled(name)), cache


def prefill_with(
    name: str, prompt: Sequence[int], cache: Cache, drafts: Any = None, end: int | None = None
) -> Cache:
    """The cache with all tokens of `prompt` up to `end`, by default all but the last."""
    start = cache.offset

    def observe(hidden: mx.array, index: int) -> None:
        following = start + index + 1
        if drafts is not None:
            drafts.read(prompt[following : following + hidden.shape[1]], hidden)

    ids = prompt[start : len(prompt) - 1 if end is None else end]
    for _ in prefill(network(name, mtp=True), cache, ids, 40, observe):
        pass
    return cache


def reply(
    name: str, sampling: Sampling, drafter: Drafter | None, cache: Cache, tokens: int = TOKENS
) -> list[int]:
    net, last = network(name, mtp=True), expected(name)["prompt"].tolist()[-1]
    sampler = Sampler(sampling, net.config.vocab_size, seed=11)
    stream = decode(net, cache, [last], sampler, drafter)
    found = list(islice(stream, tokens))
    stream.close()
    return found


def fixed(source: Any, depth: int) -> Drafter:
    return Drafter(source, None, PassCosts(), depth=depth)


def assert_same_state(a: Cache, b: Cache) -> None:
    """Equal to the bit, also in what later tokens do to it."""
    assert a.offset == b.offset
    for one, other in zip(a.layers, b.layers, strict=True):
        if isinstance(one, DeltaState):
            assert isinstance(other, DeltaState)
            assert one.conv is not None
            assert one.recurrent is not None
            assert mx.array_equal(one.conv, other.conv)
            assert mx.array_equal(one.recurrent, other.recurrent)
        else:
            assert isinstance(one, KVCache)
            rows, others = (c.snapshot().rows(0) for c in (one, other))  # type: ignore[union-attr]
            for x, y in zip(rows, others, strict=True):
                assert mx.array_equal(x, y)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_replies_are_those_without_drafts(name, sampling, depth):
    prompt = expected(name)["prompt"].tolist()
    want, plain = plain_reply(name, sampling)
    cache = network(name, mtp=True).make_cache()
    prefill_with(name, prompt, cache, drafts := MTPDrafts(network(name, mtp=True), cache))
    drafter = fixed(drafts, depth)
    assert reply(name, SAMPLINGS[sampling], drafter, cache) == want
    assert drafter.passes > 0
    assert_same_state(cache, plain)


@pytest.mark.parametrize("stop", range(1, 13))
def test_the_cache_holds_what_was_yielded_wherever_the_caller_stops(stop):
    """Drafts that are right, wrong at each place, and longer than what is yielded."""
    name = "moe"
    right, _ = plain_reply(name, "greedy")
    script = [[] for _ in range(TOKENS)]
    for position, (count, wrong) in {1: (4, 2), 4: (6, 6), 11: (3, 0), 12: (5, 1)}.items():
        script[position] = right[position : position + count]
        if wrong < count:
            script[position][wrong] = (script[position][wrong] + 1) % 256
    source = Script(script)
    cache = prefilled(name)
    assert reply(name, GREEDY, fixed(source, 6), cache, stop) == right[:stop]
    plain = prefilled(name)
    reply(name, GREEDY, None, plain, stop)
    assert_same_state(cache, plain)
    more = [network(name)(mx.array([[5, 6]]), one) for one in (cache, plain)]
    assert mx.array_equal(*more)


def test_a_wrong_draft_is_taken_back_from_quantised_keys_and_values():
    name = "dense"
    net, prompt = network(name), expected(name)["prompt"].tolist()
    caches = [net.make_cache(kv_bits=8) for _ in range(2)]
    for cache in caches:
        net(mx.array([prompt]), cache)
    net(mx.array([[7]]), caches[0])
    net(mx.array([[7, 9, 9]]), caches[1], revocable=True)
    net.take_back(caches[1], 2)
    assert_same_state(*caches)


def test_a_snapshot_before_a_pass_keeps_its_rows():
    name = "dense"
    net, prompt = network(name), expected(name)["prompt"].tolist()
    cache = net.make_cache()
    net(mx.array([prompt]), cache)
    before = cache.snapshot()
    net(mx.array([[7, 9, 9]]), cache, revocable=True)
    after = cache.snapshot()
    net.take_back(cache, 2)
    net(mx.array([[8, 8, 8]]), cache)
    want = net.make_cache()
    net(mx.array([prompt]), want)
    net(mx.array([[7, 9, 9]]), want)
    cache.restore(after)
    assert_same_state(cache, want)
    cache.restore(before)
    assert cache.offset == len(prompt)


def copies(ids: Sequence[int]) -> CopyDrafts:
    drafts = CopyDrafts()
    drafts.read(ids)
    return drafts


def drafted(drafts: CopyDrafts, count: int = 16) -> list[int]:
    sampler = Sampler(GREEDY, 10)
    return drafts.draft(count, sampler, mx.array([], mx.int32), 0).tolist()


def test_copies_follow_the_latest_place_that_ends_as_the_conversation_does():
    drafts = copies([1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 7, 0, 1, 2, 3])
    assert drafted(drafts) == [6, 7, 0, 1, 2, 3]
    assert drafted(drafts, 2) == [6, 7]
    assert drafts.match_length == 3


def test_the_longer_a_piece_is_repeated_the_longer_it_is_counted():
    piece = list(range(20))
    assert copies([*piece, 50, *piece]).match_length == 20
    assert copies([*range(40), 50, *range(40)]).match_length == 32
    assert copies([1, 1, 1, 1, 1]).match_length == 4


@pytest.mark.parametrize("ids", [[], [1], [1, 2, 3], [1, 2, 3, 4, 5, 6]])
def test_nothing_is_copied_where_nothing_repeats(ids):
    drafts = copies(ids)
    assert drafted(drafts) == []
    assert drafts.match_length == 0


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 37, 59, 60])
def test_a_prompt_that_goes_on_otherwise_is_copied_from_as_if_read_at_once(kept):
    rng = np.random.default_rng(kept)
    one, other = rng.integers(3, size=(2, 60)).tolist()
    drafts = copies(one[:50])
    drafts.read(one[50:])
    for prompt in ([*one[:kept], *other], [*one[:kept], *other[:9]], one):
        drafts.begin(prompt, 0)
        fresh = copies(prompt)
        assert drafted(drafts) == drafted(fresh)
        assert drafts.match_length == fresh.match_length
        assert drafts._following == fresh._following


def test_the_next_prompt_of_a_conversation_costs_its_new_tokens(monkeypatch):
    drafts, read = copies(list(range(1000))), []
    monkeypatch.setattr(drafting, "_ngrams", lambda ids: read.append(len(ids)) or [])
    drafts.begin([*range(990), 5, 6, 7], 0)
    assert sum(read) < 20


def test_tokens_that_come_one_by_one_are_found_as_those_of_a_prompt_are():
    """Few are joined in another way than many; both take the largest ids of a vocabulary."""
    ids = np.random.default_rng(5).choice([0, 1, 248_319, 2**21 - 1], 200).tolist()
    whole, single = copies(ids), CopyDrafts()
    for token in ids:
        single.read([token])
    assert len(single._following) > 40
    assert single._following == whole._following
    assert drafted(single) == drafted(whole)
