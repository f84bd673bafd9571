"""Recorded functions give what they give unrecorded, in every pass of a decode."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import decode_attention
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model import kv_cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.recordings import PassRecording
from scripts.support.random_weights import random_network, random_source


def selection(compiled: bool = True) -> KernelSelection:
    return KernelSelection(compiled=compiled)


def test_the_second_layer_of_a_pass_records_and_the_others_replay():
    built = []

    def double(x):
        built.append(x.shape)
        return 2 * x

    recording, x = PassRecording(selection()), mx.arange(4)
    for constants in (1, 2):
        for _ in range(5):
            assert recording.get(partial(double), constants, x)(x).tolist() == [0, 2, 4, 6]
    # Once without a recording, where a kernel may fail; then once for each pass.
    assert len(built) == 3


def test_a_recording_is_not_used_with_other_constants():
    recording, x = PassRecording(selection()), mx.arange(2)
    for _ in range(3):
        assert recording.get(lambda x: x + 1, 1, x)(x).tolist() == [1, 2]
    assert recording.get(lambda x: x + 2, 2, x)(x).tolist() == [2, 3]


def test_nothing_is_recorded_where_layers_are_not():
    recording, x = PassRecording(selection(compiled=False)), mx.arange(2)
    functions = [lambda x: x, lambda x: x, lambda x: x]
    assert [recording.get(one, 1, x) for one in functions] == functions


def in_one_part(q, buffer, tail, gate, scale):
    """The decode kernel in plain MLX."""
    rows = buffer[0].shape[2], tail[0].shape[2]
    joined = [
        mx.concatenate([a[:, :, : rows[0]], b[:, :, : rows[1]]], axis=2)
        for a, b in zip(buffer, tail, strict=True)
    ]
    if len(joined) == 2:
        return decode_attention.reference(q, *joined, gate, scale)
    return decode_attention.reference_8bit(q, *joined, gate=gate, scale=scale)


def decoded(network: Network, compiled: bool, kv_bits: int | None) -> list[np.ndarray]:
    """Outputs and the last state of passes of 1 to 3 tokens, of which some are taken back."""
    network.selection.compiled = compiled
    cache = network.make_cache(kv_bits)
    outputs = [network(mx.array([[1, 2, 3, 4, 5]]), cache)]
    for i in range(14):
        tokens = 1 + i % 3
        ids = mx.array([[7 * i + t for t in range(tokens)]])
        outputs.append(network(ids, cache, revocable=tokens > 1))
        network.take_back(cache, i % tokens)
    return [np.array(x.astype(mx.float32)) for x in (*outputs, *cache.arrays)]


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_decode_is_the_same_with_recordings(monkeypatch, kv_bits):
    monkeypatch.setattr(kv_cache, "TAIL_ROWS", 6)  # so that the tail is moved a few times
    monkeypatch.setattr(decode_attention, "kernel", in_one_part)
    network = random_network(random_source("tiny"))
    network.selection.decode_attention = decode_attention.KERNEL
    network.selection.decode_attention_8bit = decode_attention.KERNEL
    plain = decoded(network, False, kv_bits)
    recorded = decoded(network, True, kv_bits)
    again = decoded(network, True, kv_bits)
    for one, *others in zip(plain, recorded, again, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, one)
