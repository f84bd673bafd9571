"""A prompt that does not fit is refused with the numbers before it is read."""

import mlx.core as mx
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import Shard
from qwen35_mlx.model.memory import estimate, weight_bytes
from qwen35_mlx.model.split import split_config
from qwen35_mlx.session import memory
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.replies import Replies
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


def test_the_smallest_machine_of_several_bounds_a_prompt(model, monkeypatch):
    config = model.network.config
    need = estimate(config, 4, 5000, memory.CPU_CHUNKS[0], None, unpacks=True).total
    monkeypatch.setattr(memory, "limit", lambda: 1 << 60)
    assert memory.chunk_for(config, 4, 5000, 7, None, bound=need + 7) == memory.CPU_CHUNKS[0]
    assert memory.chunk_for(config, 4, 5000, 7, None, bound=need) < memory.CPU_CHUNKS[0]
    with pytest.raises(Qwen35Error, match=r"a process has 0.0 GB for both"):
        memory.chunk_for(config, 4, 5000, 7, None, bound=7)
    assert memory.room_beside([], 7, 10) == 3


def test_a_turn_is_held_to_what_a_process_may_take(model, monkeypatch):
    monkeypatch.setattr(model, "memory", 7)
    with pytest.raises(Qwen35Error, match="a process has"):
        model.generate([{"role": "user", "content": "Hello"}])
    assert Replies(model, None)._snapshots._shared_bytes == 0
    monkeypatch.setattr(model, "memory", model.weight_bytes + 1000)
    assert Replies(model, None)._snapshots._shared_bytes == 250


def test_what_one_of_several_processes_needs_is_said_or_refused(model):
    config, half = model.network.config, Shard(0, 2)
    line = memory.part_needs(80 * 10**9, config, half, 4, None, 48 * 10**9)
    weights = weight_bytes(80 * 10**9, config, split_config(config, half))
    assert line.startswith(f"each of 2 processes needs {weights / 1e9:.1f} GB for the weights and ")
    assert line.endswith("; the smallest has 48.0 GB for models")
    with pytest.raises(Qwen35Error, match=r"2 processes needs .* and one has 20\.0 GB"):
        memory.part_needs(80 * 10**9, config, half, 4, None, 20 * 10**9)


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
