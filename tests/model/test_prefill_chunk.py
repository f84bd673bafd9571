"""The operation that finds out how many tokens of a prompt to read at once."""

import mlx.core as mx
import pytest

from qwen35_mlx.kernels.selection import PREFILL_CHUNK, REFERENCE, KernelSelection
from qwen35_mlx.model import prefill_chunk, trials
from qwen35_mlx.model.layer import Layer
from tests.goldens import network


@pytest.mark.parametrize(("variant", "want"), [(REFERENCE, [24]), ("10", [10, 10, 4])])
def test_the_prompt_is_read_in_chunks_of_the_selected_length(monkeypatch, variant, want):
    net = network("moe")
    monkeypatch.setattr(trials, "CHUNKED_TOKENS", 24)
    net.selection.select("prefill_chunk", variant)
    read, call = [], Layer.__call__
    monkeypatch.setattr(
        Layer,
        "__call__",
        lambda self, x, cache: read.append((self, x.shape[1])) or call(self, x, cache),
    )
    (timed,) = prefill_chunk.prefill_chunk(net).timed_calls
    outputs = timed()
    layers = list(dict.fromkeys(layer for layer, _ in read))
    assert [type(layer.mixer).__name__ for layer in layers] == ["GatedDeltaNet", "Attention"]
    for layer in layers:
        assert [length for one, length in read if one is layer] == want
    assert all(bool(mx.isfinite(y).all()) for y in outputs)


def test_longer_chunks_than_fit_into_memory_are_not_tried(monkeypatch):
    net = network("dense")
    assert list(prefill_chunk.prefill_chunk(net).variants) == ["1024", "4096"]
    monkeypatch.setattr(prefill_chunk, "limit", lambda: 1)
    assert list(prefill_chunk.prefill_chunk(net).variants) == ["1024"]


def test_the_selected_length_as_a_number():
    selection = KernelSelection()
    assert selection.chunk_tokens == PREFILL_CHUNK
    selection.select("prefill_chunk", "1024")
    assert selection.chunk_tokens == 1024
