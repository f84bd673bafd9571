"""The network against transformers' own outputs."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.model.cache import Cache, KVCache
from tests.goldens import NAMES, assert_logits, expected, network

pytestmark = pytest.mark.parametrize("name", NAMES)


def run(name: str, ids: mx.array, cache: Cache) -> mx.array:
    """ids [T] or [B, T] -> logits of the same leading shape."""
    net = network(name)
    batch = ids if ids.ndim == 2 else ids[None]
    logits = net.logits(net(batch, cache))
    return logits if ids.ndim == 2 else logits[0]


def test_prefill(name):
    want = expected(name)
    got = run(name, want["prompt"], network(name).make_cache())
    assert_logits(got, want["prefill_logits"])


def test_64_cached_steps(name):
    want = expected(name)
    cache = network(name).make_cache()
    logits = run(name, want["prompt"], cache)[-1:]
    steps = []
    for token in want["greedy"].tolist():
        assert mx.argmax(logits[-1]).item() == token
        logits = run(name, mx.array([token]), cache)
        steps.append(logits)
    assert len(steps) == 64
    assert_logits(mx.concatenate(steps), want["decode_logits"])


@pytest.mark.parametrize("cuts", [(1,), (149,), (64, 65), (3, 4, 100), tuple(range(1, 12))])
def test_any_split_of_the_prompt(name, cuts):
    want = expected(name)
    cache = network(name).make_cache()
    pieces = mx.split(want["prompt"], list(cuts))
    got = mx.concatenate([run(name, piece, cache) for piece in pieces])
    assert cache.offset == 150
    assert_logits(got, want["prefill_logits"])


def test_mtp_head(name):
    want, net = expected(name), network(name)
    assert net.mtp is not None
    prompt = want["prompt"][None]
    hidden = net(prompt, net.make_cache())
    embedded = net.embed(prompt[:, 1:])
    whole = net.logits(net.mtp(hidden[:, :-1], embedded, KVCache()))[0]
    assert_logits(whole, want["mtp_logits"])
    cache = KVCache()
    first = net.mtp(hidden[:, :100], embedded[:, :100], cache)
    second = net.mtp(hidden[:, 100:-1], embedded[:, 100:], cache)
    assert_logits(net.logits(mx.concatenate([first, second], axis=1))[0], want["mtp_logits"])


def test_left_padded_batch_equals_its_rows(name):
    want = expected(name)
    prompt = want["prompt"]
    lengths = [150, 91, 7]
    padding = mx.array([150 - n for n in lengths])
    rows = [mx.concatenate([mx.zeros(150 - n, mx.int32), prompt[:n]]) for n in lengths]
    cache = network(name).make_cache(left_padding=padding)
    ids = mx.stack(rows)
    # In two pieces, so that one row's first piece is nothing but padding.
    got = mx.concatenate([run(name, ids[:, :70], cache), run(name, ids[:, 70:], cache)], axis=1)
    for row, n in enumerate(lengths):
        assert_logits(got[row, 150 - n :], want["prefill_logits"][:n])
    step = run(name, mx.array([[5]] * 3), cache)
    for row, n in enumerate(lengths):
        alone = network(name).make_cache()
        run(name, prompt[:n], alone)
        assert_logits(step[row], run(name, mx.array([5]), alone))


def test_generating_after_a_snapshot_never_changes_it(name):
    want = expected(name)
    cache = network(name).make_cache()
    run(name, want["prompt"][:100], cache)
    at_100 = cache.snapshot()
    run(name, want["prompt"][100:], cache)
    at_150 = cache.snapshot()
    for _ in range(2):
        # Back to 100 and along another branch: neither snapshot may notice.
        cache.restore(at_100)
        run(name, mx.arange(40), cache)
        cache.restore(at_150)
        assert cache.offset == 150
        token = want["greedy"][:1]
        assert_logits(run(name, token, cache), want["decode_logits"][:1])
        cache.restore(at_100)
        assert_logits(run(name, want["prompt"][100:], cache), want["prefill_logits"][100:])


def test_two_caches_on_one_snapshot_do_not_meet(name):
    want = expected(name)
    net = network(name)
    first = net.make_cache()
    run(name, want["prompt"], first)
    second = net.make_cache()
    second.restore(first.snapshot())
    other = run(name, mx.arange(20), second)
    assert_logits(run(name, want["greedy"][:1], first), want["decode_logits"][:1])
    third = net.make_cache()
    run(name, want["prompt"], third)
    np.testing.assert_array_equal(np.array(run(name, mx.arange(20), third)), np.array(other))
