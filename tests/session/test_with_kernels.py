"""Conversations with the kernels in use, on a GPU or in the emulator."""

import numpy as np

from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.load import load
from tests.model.test_with_kernels import use_kernels
from tests.session.durable_child import OPTIONS, done_of, fresh_logits, logits_after


def test_turns_equal_a_fresh_prefill_and_a_restart_gives_the_same_bits(
    model_folder, tmp_path, monkeypatch, request
):
    monkeypatch.setenv(gpu_kernel.KERNELS_ENV, "reference")
    plain, own, later = (load(model_folder) for _ in range(3))
    request.getfixturevalue("kernels")
    use_kernels(own.network)
    use_kernels(later.network)
    with Library(tmp_path / "library") as library:
        chat = Chat(own, library=library, **OPTIONS)
        for turn in range(3):
            question = f"{turn}?"
            if turn:
                fresh = fresh_logits(plain, chat, question)
                np.testing.assert_allclose(logits_after(own, chat, question)[0], fresh, atol=1e-4)
            done_of(chat.send(question, max_tokens=5))
        want = logits_after(own, chat, "And now?")
        # From memory, after a turn of another conversation.
        done_of(Chat(own, library=library, **OPTIONS).send("Something else", max_tokens=5))
        np.testing.assert_array_equal(logits_after(own, chat, "And now?"), want)
        number = chat.conversation.id
        chat.close()
        # From disk, with another network.
        again = Chat(later, library=library, conversation=number)
        np.testing.assert_array_equal(logits_after(later, again, "And now?"), want)
