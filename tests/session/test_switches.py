"""A conversation goes on with another model or other settings of the network, and back again."""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from tests.random_model import CONTEXT
from tests.session.durable_child import OPTIONS, done_of, logits_after, messages_with


def other_weights(folder: Path, copy: Path) -> Model:
    """A model of the same shapes, with one matrix reversed."""
    shutil.copytree(folder, copy)
    file = copy / "model.safetensors"
    tensors = mx.load(str(file))
    assert isinstance(tensors, dict)
    name = next(name for name in tensors if name.endswith("layers.0.mlp.gate.weight"))
    tensors[name] = tensors[name][::-1]
    mx.save_safetensors(str(file), tensors, {"format": "mlx"})
    return load(copy)


OTHERS: dict[str, Any] = {
    "other weights": other_weights,
    "8-bit keys and values": lambda folder, _: load(folder, kv_bits=8),
    "YaRN by 2": lambda folder, _: load(folder, context=2 * CONTEXT),
    "another dtype": lambda folder, _: load(folder, dtype="bfloat16"),
}


def next_turn(model: Model, library: Library, number: int, question: str) -> Done:
    """The next turn of a stored conversation; it must equal a fresh prefill."""
    chat = Chat(model, library=library, conversation=number)
    fresh = done_of(model.stream(messages_with(chat, question), max_tokens=6, **OPTIONS))
    done = done_of(chat.send(question, max_tokens=6))
    assert done.message == fresh.message
    chat.close()
    return done


@pytest.mark.parametrize("other", OTHERS)
def test_each_network_restores_only_its_own_snapshots(model_folder, tmp_path, other):
    one, two = load(model_folder), OTHERS[other](model_folder, tmp_path / "other")
    with Library(tmp_path / "library") as library:
        chat = Chat(one, library=library, **OPTIONS)
        done_of(chat.send("Question 1 and some words", max_tokens=6))
        number = chat.conversation.id
        expected = logits_after(one, chat, "Question 2")
        chat.close()
        assert next_turn(two, library, number, "Question 2").usage.cached_tokens == 0
        assert next_turn(two, library, number, "Question 3").usage.cached_tokens > 0
        # The first model goes on from its own snapshot, bit by bit.
        again = Chat(one, library=library, conversation=number)
        again.branch(again.messages[1].id)
        np.testing.assert_array_equal(logits_after(one, again, "Question 2"), expected)
        again.close()
        assert next_turn(one, library, number, "Question 2").usage.cached_tokens > 0


def test_yarn_by_another_factor_is_another_network(model_folder, tmp_path):
    with Library(tmp_path) as library:
        two = load(model_folder, context=2 * CONTEXT)
        chat = Chat(two, library=library, **OPTIONS)
        done_of(chat.send("Question 1 and some words", max_tokens=6))
        chat.close()
        four = load(model_folder, context=4 * CONTEXT)
        done = next_turn(four, library, chat.conversation.id, "Question 2")
        assert done.usage.cached_tokens == 0


def test_a_changed_system_prompt_is_followed_and_the_old_one_still_cached(model, tmp_path):
    with Library(tmp_path) as library:
        chat = Chat(model, library=library, system="Be brief.", **OPTIONS)
        done_of(chat.send("Question 1", max_tokens=6))
        number = chat.conversation.id
        chat.close()
        other = Chat(model, library=library, conversation=number, system="Go on at length.")
        other.close()
        next_turn(model, library, number, "Question 2")
        back = Chat(model, library=library, conversation=number, system="Be brief.")
        back.branch(back.messages[1].id)
        back.close()
        assert next_turn(model, library, number, "Question 2").usage.cached_tokens > 0


def test_both_paths_of_an_edited_first_message_survive_a_restart(model, tmp_path):
    with Library(tmp_path) as library:
        chat = Chat(model, library=library, **OPTIONS)
        done_of(chat.send("Question 1", max_tokens=6))
        done_of(chat.send("Question 2", max_tokens=6))
        number, old = chat.conversation.id, chat.messages
        done_of(chat.edit(old[0].id, "Other 1", max_tokens=6))
        chat.close()
    with Library(tmp_path) as library:
        next_turn(model, library, number, "Other 2")
        chat = Chat(model, library=library, conversation=number)
        chat.select(old[-1].id)
        assert chat.messages == old
        chat.close()
        assert next_turn(model, library, number, "Question 3").usage.cached_tokens > 0
