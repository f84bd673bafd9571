"""Replies that share passes are those of their own passes."""

from functools import cache as remembered
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.decode_group import DecodeGroup
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model import kv_cache
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.model.network import Network

TOKENS = 24
QUESTIONS = ["What is 17 + 25?", "Name three colours.", "Write a line about the sea.", "中文?"]


@pytest.fixture(scope="module")
def model():
    with qwen35_mlx.load("demo", dtype="float32", mtp="off") as loaded:
        yield loaded


def prompts(model: qwen35_mlx.Model) -> list[list[int]]:
    return [model.render([{"role": "user", "content": text}]) for text in QUESTIONS]


def read(network: Network, prompt: list[int], kv_bits: int | None = None) -> Cache:
    """The cache after all but the last token."""
    cache = network.make_cache(kv_bits)
    cache.restore(state_after(network, tuple(prompt[:-1]), kv_bits))
    return cache


@remembered
def state_after(network: Network, ids: tuple[int, ...], kv_bits: int | None) -> Snapshot:
    cache = network.make_cache(kv_bits)
    for _ in prefill(network, cache, list(ids), 512):
        pass
    return cache.snapshot()


def shared(model: qwen35_mlx.Model) -> DecodeGroup:
    group = DecodeGroup(model.network)
    group.wanted = True
    return group


def samplers(model: qwen35_mlx.Model) -> list[Sampler]:
    vocab = model.network.config.vocab_size
    return [
        Sampler(Sampling(temperature=0), vocab),
        Sampler(Sampling(temperature=0.8, top_k=20), vocab, 3),
        Sampler(Sampling(temperature=0, presence_penalty=1.5), vocab),
        Sampler(Sampling(temperature=1, top_k=0, top_p=1), vocab, 4),
    ]


@remembered
def alone(model: qwen35_mlx.Model, number: int) -> tuple[list[int], Cache]:
    """The reply to a question in passes of its own, and the cache after it."""
    prompt, sampler = prompts(model)[number], samplers(model)[number]
    cache = read(model.network, prompt)
    stream = decode(model.network, cache, prompt[-1:], sampler)
    reply = list(islice(stream, TOKENS))
    stream.close()
    return reply, cache


def assert_same_state(one: Cache, other: Cache) -> None:
    assert one.offset == other.offset
    saved = [cache.snapshot().layers for cache in (one, other)]
    for a, b in zip(*saved, strict=True):
        rows = [
            s.rows(0) if isinstance(s, kv_cache.KVSnapshot) else (s.conv, s.recurrent)
            for s in (a, b)
        ]
        for x, y in zip(*rows, strict=True):
            np.testing.assert_allclose(np.array(x), np.array(y), rtol=1e-3, atol=1e-4)


def test_each_reply_is_its_own(model):
    want = [alone(model, number) for number in range(len(QUESTIONS))]
    group = shared(model)
    caches = [read(model.network, prompt) for prompt in prompts(model)]
    streams = [
        group.decode(cache, prompt[-1:], sampler)
        for cache, prompt, sampler in zip(caches, prompts(model), samplers(model), strict=True)
    ]
    replies = [[next(stream) for stream in streams] for _ in range(TOKENS)]
    for stream in streams:
        stream.close()
    assert [list(reply) for reply in zip(*replies, strict=True)] == [reply for reply, _ in want]
    for cache, (_, own) in zip(caches, want, strict=True):
        assert_same_state(cache, own)


def test_replies_begin_and_end_at_any_time(model, monkeypatch):
    monkeypatch.setattr(kv_cache, "TAIL_ROWS", 7)
    want = [alone(model, number)[0] for number in range(len(QUESTIONS))]
    group, random = shared(model), np.random.default_rng(0)
    waiting = list(zip(prompts(model), samplers(model), want, strict=True))
    running = []
    passes = 0
    while waiting or running:
        if waiting and (not running or random.random() < 0.2):
            prompt, sampler, reply = waiting.pop()
            cache = read(model.network, prompt)
            running.append((group.decode(cache, prompt[-1:], sampler), [], reply, cache, prompt))
        order = random.permutation(len(running))
        for index in order[: random.integers(1, len(running) + 1)]:
            stream, got, *_ = running[index]
            got.append(next(stream))
        passes += 1
        for entry in list(running):
            stream, got, reply, cache, prompt = entry
            if len(got) == len(reply) - 3:  # before the end, also while a pass is under way
                stream.close()
                running.remove(entry)
                assert got == reply[:-3]
                assert cache.offset == len(prompt) + len(got)
                fresh = read(model.network, [*prompt, *got, 0])
                assert_same_state(cache, fresh)
    assert passes > TOKENS


def test_a_pass_waits_for_nobody(model):
    group = shared(model)
    first, second = (
        group.decode(read(model.network, prompt), prompt[-1:], sampler)
        for prompt, sampler in zip(prompts(model)[:2], samplers(model)[:2], strict=True)
    )
    want = alone(model, 0)[0]
    next(second)
    assert list(islice(first, TOKENS)) == want
    want = alone(model, 1)[0]
    assert list(islice(second, TOKENS - 1)) == want[1:]


def test_all_rows_of_a_round_are_in_one_pass(model, monkeypatch):
    rows, together = [], Network.together
    monkeypatch.setattr(
        Network, "together", lambda *args: rows.append(args[1].shape[0]) or together(*args)
    )
    group = shared(model)
    streams = [
        group.decode(read(model.network, prompt), prompt[-1:], sampler)
        for prompt, sampler in zip(prompts(model), samplers(model), strict=True)
    ]
    for _ in range(5):
        for stream in streams:
            next(stream)
    # The streams begin one after the other.
    assert rows[-4:] == [4, 4, 4, 4]
    assert len(rows) <= 8


def test_a_state_outlives_the_others(model):
    prompt, sampler = prompts(model)[0], samplers(model)[0]
    group, caches = shared(model), [read(model.network, prompt) for _ in range(3)]
    streams = [group.decode(cache, prompt[-1:], sampler) for cache in caches]
    for stream in streams:
        next(stream)
        next(stream)
    before = [layer.recurrent for layer in caches[0].layers if hasattr(layer, "recurrent")]
    streams[0].close()
    after = [layer.recurrent for layer in caches[0].layers if hasattr(layer, "recurrent")]
    assert all(a is not b for a, b in zip(before, after, strict=True))


def test_logits_that_are_not_finite_end_their_reply_alone(model, monkeypatch):
    group = shared(model)
    good, bad = (
        group.decode(read(model.network, prompt), prompt[-1:], sampler)
        for prompt, sampler in zip(prompts(model)[:2], samplers(model)[:2], strict=True)
    )
    next(good)
    next(bad)
    whole = Network.logits

    def second_row_infinite(self, hidden):
        logits = whole(self, hidden)
        return logits if len(logits) < 2 else logits.at[1].add(mx.inf)

    monkeypatch.setattr(Network, "logits", second_row_infinite)
    next(good)  # launches both rows
    next(bad)
    next(good)
    with pytest.raises(Qwen35Error, match="not finite at position"):
        next(bad)
    monkeypatch.undo()
    assert len(list(islice(good, 5))) == 5


def test_an_error_of_a_sampler_ends_its_reply_alone(model):
    class Failing(Sampler):
        def __call__(self, logits, reply, position, drafts=None, **more):
            if position == 3:
                raise Qwen35Error("the grammar is too complex")
            return super().__call__(logits, reply, position, drafts, **more)

    group = shared(model)
    (prompt, other), (sampler, _) = prompts(model)[:2], samplers(model)[:2]
    good = group.decode(read(model.network, prompt), prompt[-1:], sampler)
    vocab = model.network.config.vocab_size
    bad = group.decode(
        read(model.network, other), other[-1:], Failing(Sampling(temperature=0), vocab)
    )
    got = []
    for _ in range(3):
        got.append(next(good))
        next(bad)
    got.append(next(good))
    with pytest.raises(Qwen35Error, match="too complex"):
        next(bad)
    got += islice(good, TOKENS - 4)
    assert got == alone(model, 0)[0]


def test_a_pass_that_fails_ends_all_of_its_replies(model, monkeypatch):
    group = shared(model)
    streams = [
        group.decode(read(model.network, prompt), prompt[-1:], sampler)
        for prompt, sampler in zip(prompts(model)[:2], samplers(model)[:2], strict=True)
    ]
    for stream in streams:
        next(stream)

    def broken(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(model.network.layers[-1], "together", broken)
    next(streams[0])  # what is computed already
    with pytest.raises(RuntimeError, match="in the middle"):
        next(streams[0])
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="in the middle"):
        next(streams[1])
    prompt, sampler = prompts(model)[0], samplers(model)[0]
    later = group.decode(read(model.network, prompt), prompt[-1:], sampler)
    assert list(islice(later, TOKENS)) == alone(model, 0)[0]
