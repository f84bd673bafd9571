"""The network against outputs of transformers."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from qwen35_mlx.model.weights import Weights
from tests.goldens import FOLDER, NAMES, assert_logits, expected, network

pytestmark = pytest.mark.parametrize("name", NAMES)


class RecordingSource:
    """A checkpoint that records which tensors are read."""

    def __init__(self, name: str):
        self.checkpoint = open_checkpoint(FOLDER / name)
        self.reads: list[str] = []
        self.names = self.checkpoint.names
        self.quantization = self.checkpoint.quantization

    def read(self, name: str) -> mx.array:
        self.reads.append(name)
        return self.checkpoint.read(name)


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


def test_64_decoded_tokens(name):
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
    want, net = expected(name), network(name, mtp=True)
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


def test_the_mtp_head_is_read_on_request_only(name):
    source = RecordingSource(name)
    config = source.checkpoint.model
    plain = Network(config, Weights(config, source))
    assert plain.mtp is None
    assert sorted(source.reads) == sorted(trunk_tensors(config))
    source.reads.clear()
    assert Network(config, Weights(config, source), mtp=True).mtp is not None
    assert sorted(source.reads) == sorted(trunk_tensors(config) | mtp_tensors(config))


def test_a_checkpoint_loads_without_its_mtp_head_unless_it_is_requested(name):
    checkpoint = open_checkpoint(FOLDER / name)
    assert checkpoint.has_mtp
    assert load_network(checkpoint, dtype="float32").mtp is None
    assert load_network(checkpoint, dtype="float32", mtp=True).mtp is not None


def test_an_interrupted_pass_leaves_no_offset(name, monkeypatch):
    """Some layers are a pass ahead of the others then."""
    net = network(name)
    cache = net.make_cache()
    net(mx.arange(5)[None], cache)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(net, "layers", [net.layers[0], interrupt, *net.layers[2:]])
    with pytest.raises(KeyboardInterrupt):
        net(mx.arange(2)[None], cache)
    assert cache.offset < 0


def test_generating_after_a_snapshot_never_changes_it(name):
    want = expected(name)
    cache = network(name).make_cache()
    run(name, want["prompt"][:100], cache)
    at_100 = cache.snapshot()
    run(name, want["prompt"][100:], cache)
    at_150 = cache.snapshot()
    for _ in range(2):
        # Another branch from 100 must change neither snapshot.
        cache.restore(at_100)
        run(name, mx.arange(40), cache)
        cache.restore(at_150)
        assert cache.offset == 150
        token = want["greedy"][:1]
        assert_logits(run(name, token, cache), want["decode_logits"][:1])
        cache.restore(at_100)
        assert_logits(run(name, want["prompt"][100:], cache), want["prefill_logits"][100:])


def test_two_caches_of_one_snapshot_are_independent(name):
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
