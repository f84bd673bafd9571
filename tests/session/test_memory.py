"""A prompt that does not fit is refused with the numbers before it is read."""

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.session import memory
from qwen35_mlx.session.chat import Chat


def test_the_chunk_shrinks_with_the_room_and_then_the_prompt_is_refused(model, monkeypatch):
    config = model.network.config
    sizes = [
        estimate(config, 4, 5000, chunk, None, unpacks_experts=True).total
        for chunk in memory.CPU_CHUNKS
    ]
    assert sizes == sorted(sizes, reverse=True)
    for bound, chunk in zip(sizes, memory.CPU_CHUNKS, strict=True):
        monkeypatch.setattr(memory, "limit", lambda bound=bound: bound + 7)
        assert memory.chunk_for(config, 4, 5000, 7, None) == chunk
    monkeypatch.setattr(memory, "limit", lambda: sizes[-1])
    with pytest.raises(Qwen35Error, match=r"5,000 tokens needs about .* GB .*kv_bits=8"):
        memory.chunk_for(config, 4, 5000, 7, None)


def test_a_chat_refuses_and_stays_as_it_was(model, monkeypatch):
    chat = Chat(model)
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    with pytest.raises(Qwen35Error, match="this machine has"):
        chat.send("Hello")
    assert chat.messages == ()
