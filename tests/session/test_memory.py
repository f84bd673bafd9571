"""A prompt that does not fit is refused with the numbers before it is read."""

import mlx.core as mx
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.session import memory
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.reply_options import ReplyOptions


def test_the_chunk_shrinks_with_the_room_and_then_the_prompt_is_refused(model, monkeypatch):
    config = model.network.config
    sizes = [
        estimate(config, 4, 5000, chunk, None, unpacks=True).total for chunk in memory.CPU_CHUNKS
    ]
    assert sizes == sorted(sizes, reverse=True)
    for bound, chunk in zip(sizes, memory.CPU_CHUNKS, strict=True):
        monkeypatch.setattr(memory, "limit", lambda bound=bound: bound + 7)
        assert memory.chunk_for(config, 4, 5000, 7, None) == chunk
    monkeypatch.setattr(memory, "limit", lambda: sizes[-1])
    with pytest.raises(Qwen35Error, match=r"5,000 tokens needs about .* GB .*kv_bits=8"):
        memory.chunk_for(config, 4, 5000, 7, None)


def test_a_gpu_reads_at_most_as_many_tokens_as_are_fastest(model, monkeypatch):
    config = model.network.config
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(memory, "limit", lambda: 1 << 60)
    for largest in (1024, 2048, 4096):
        assert memory.chunk_for(config, 4, 5000, 7, None, largest=largest) == largest
    need = estimate(config, 4, 5000, 512, None).total
    monkeypatch.setattr(memory, "limit", lambda: need + 7)
    assert memory.chunk_for(config, 4, 5000, 7, None, largest=4096) == 512


@pytest.mark.parametrize(("selected", "want"), [("reference", 2048), ("1024", 1024)])
def test_a_turn_takes_the_length_selected_on_this_machine(model, monkeypatch, selected, want):
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(memory, "limit", lambda: 1 << 60)
    monkeypatch.setattr(model.network.selection, "prefill_chunk", selected)
    messages = [{"role": "user", "content": "Hello"}]
    assert model.turn(messages, model.make_cache(), ReplyOptions()).chunk == want


def test_a_chat_refuses_and_stays_as_it_was(model, monkeypatch):
    chat = Chat(model)
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    with pytest.raises(Qwen35Error, match="this machine has"):
        chat.send("Hello")
    assert chat.messages == ()
