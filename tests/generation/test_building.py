"""Passes that are built while the one before is launched: the same replies and states."""

import threading
from contextlib import closing
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation import building
from qwen35_mlx.generation import decode as decoding
from qwen35_mlx.generation.decode import Reply, decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.cache import Cache
from tests.goldens import expected, network

SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "sampled": Sampling(temperature=1.0),
    "penalties": Sampling(temperature=0.0, presence_penalty=1.5, repetition_penalty=1.2),
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that passes were built in, which are built ahead from now on."""
    threads: list[str] = []
    build = Reply._build

    def noted(reply, *arguments, **options):
        threads.append(threading.current_thread().name)
        return build(reply, *arguments, **options)

    monkeypatch.setattr(Reply, "_build", noted)
    monkeypatch.setattr(building, "applies", lambda: True)
    return threads


def ahead(threads: list[str]) -> bool:
    """Whether a pass was built in the other thread."""
    return any(name.startswith("building") for name in threads)


def prefilled(name: str) -> tuple[Cache, list[int]]:
    net, prompt = network(name), expected(name)["prompt"].tolist()
    cache = net.make_cache()
    for _ in prefill(net, cache, prompt[:-1], 64):
        pass
    return cache, prompt[-1:]


def reply(name: str, count: int, sampling: Sampling, **options) -> tuple[list[int], Cache]:
    net, (cache, newest) = network(name), prefilled(name)
    sampler = Sampler(sampling, net.config.vocab_size, seed=5)
    with closing(decode(net, cache, newest, sampler, **options)) as tokens:
        return list(islice(tokens, count)), cache


def state(cache: Cache) -> list[np.ndarray]:
    """All states, and the keys and values in use."""
    snapshot = cache.snapshot()
    arrays = []
    for layer in snapshot.layers:
        rows = layer.rows(0) if hasattr(layer, "rows") else layer.arrays
        arrays += [np.array(array.astype(mx.float32)) for array in rows]
    return arrays


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_replies_and_states_are_the_same_to_the_bit(name, sampling, built, monkeypatch):
    for count in (1, 2, 3, 20):
        found, cache = reply(name, count, sampling)
        with monkeypatch.context() as patch:
            patch.setattr(building, "applies", lambda: False)
            want, plain = reply(name, count, sampling)
        assert found == want
        assert cache.offset == plain.offset == 150 + count
        for one, other in zip(state(cache), state(plain), strict=True):
            np.testing.assert_array_equal(one, other)
    assert ahead(built)


def test_the_last_token_can_be_taken_back_from_a_reply_that_was_ahead(built):
    net = network("moe")
    tokens, cache = reply("moe", 4, SAMPLINGS["greedy"], revocable=True)
    net.take_back(cache, 1)
    again, _ = reply("moe", 3, SAMPLINGS["greedy"])
    assert tokens[:3] == again
    net(mx.array([tokens[3:]]), cache)
    _, plain = reply("moe", 4, SAMPLINGS["greedy"])
    for one, other in zip(state(cache), state(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_drafts_go_on_from_a_pass_that_was_built_ahead(built):
    """The drafter pauses and comes back, in the same reply."""
    wants = iter([True, False, False, False, True, True, False, False] * 10)

    class Sometimes(Drafter):
        @property
        def wants_to_draft(self) -> bool:
            return next(wants)

    drafter = Sometimes(None, CopyDrafts(), PassCosts())
    drafter.begin(expected("moe")["prompt"].tolist(), 0)
    found, _ = reply("moe", 40, SAMPLINGS["greedy"], drafter=drafter)
    assert found == expected("moe")["greedy"].tolist()[:40]
    assert ahead(built)


def test_one_of_several_threads_may_reply(built):
    """Streams belong to threads: each evaluates what is built for it."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(reply("dense", 8, SAMPLINGS["greedy"])[0])
    )
    thread.start()
    thread.join()
    assert found == [reply("dense", 8, SAMPLINGS["greedy"])[0]]
    assert ahead(built)


def test_an_error_of_the_network_ends_the_reply(built, monkeypatch):
    net = network("dense")
    calls = iter(range(100))
    logits = type(net).logits

    def broken(self, hidden):
        if next(calls) == 4:
            raise Qwen35Error("broken")
        return logits(self, hidden)

    monkeypatch.setattr(type(net), "logits", broken)
    with pytest.raises(Qwen35Error, match="broken"):
        reply("dense", 20, SAMPLINGS["greedy"])


def test_nothing_is_ahead_where_appending_would_copy(built, monkeypatch):
    monkeypatch.setattr(decoding, "OVERLAP_LIMIT", 0)
    reply("dense", 8, SAMPLINGS["greedy"])
    assert not ahead(built)


def test_nothing_is_ahead_of_a_grammar(built):
    class Waits(Sampler):
        waits = True

    net, (cache, newest) = network("dense"), prefilled("dense")
    sampler = Waits(SAMPLINGS["greedy"], net.config.vocab_size)
    list(islice(decode(net, cache, newest, sampler), 8))
    assert not ahead(built)


def test_whether_it_works_is_tried():
    assert building._works()
