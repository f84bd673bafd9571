"""Turns of a chat cost only their own tokens, and equal a fresh prefill."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done, PrefillProgress

OPTIONS: dict[str, Any] = {"temperature": 0.0, "presence_penalty": 0.5}


def done_of(events) -> Done:
    last = list(events)[-1]
    assert isinstance(last, Done)
    return last


@pytest.mark.parametrize("thinking", [True, False])
def test_a_turn_prefills_only_what_is_new_in_the_rendering(model, thinking):
    chat = Chat(model, system="Be brief.", thinking=thinking, **OPTIONS)
    before = 0
    for turn in range(5):
        done = done_of(chat.send(f"Question {turn}", max_tokens=12))
        # The rendering up to the last reply is known; the reply without its thinking is new.
        computed = done.figures.prompt_tokens - done.figures.cached_tokens
        if turn:
            assert computed <= done.figures.prompt_tokens - before
        before = done.figures.prompt_tokens - len("<think>\n\n</think>\n\n")
    assert len(chat.messages) == 11


@pytest.mark.parametrize("thinking", [True, False])
def test_every_turn_equals_a_fresh_prefill(model, thinking):
    chat = Chat(model, thinking=thinking, **OPTIONS)
    for turn in range(4):
        question = {"role": "user", "content": f"Question {turn}, and some words"}
        fresh = done_of(
            model.stream([*chat.messages, question], thinking=thinking, max_tokens=10, **OPTIONS)
        )
        kept = done_of(chat.send(question["content"], max_tokens=10))
        assert kept.message == fresh.message
        assert (kept.figures.cached_tokens > 0) == (turn > 0)
        ids, snapshot = chat._states[-1]
        cache = model.network.make_cache()
        cache.restore(snapshot)
        probe = mx.array([[7]])
        got = model.network.logits(model.network(probe, cache))[0, 0]
        np.testing.assert_allclose(np.array(got), model.logits([*ids, 7])[-1], atol=1e-4)


def test_cancelled_reply_stays_as_far_as_it_came(model):
    chat = Chat(model, **OPTIONS)
    events = chat.send("Hello", max_tokens=50)
    said = ""
    for event in events:
        if isinstance(event, Answer):
            said += event.text
        if len(said) > 10:
            break
    events.close()
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]
    assert chat.messages[1]["content"] == said.strip()
    assert done_of(chat.send("Go on", max_tokens=5)).figures.cached_tokens > 0


def test_cancelled_prefill_takes_the_message_back(model):
    chat = Chat(model, **OPTIONS)
    events = chat.send("word " * 100, max_tokens=5)
    assert isinstance(next(events), PrefillProgress)
    events.close()
    assert chat.messages == []


@pytest.mark.parametrize(
    ("text", "words"), [("", "empty"), (" \n", "empty"), ("x " * 2000, "context")]
)
def test_a_refused_message_leaves_the_chat_as_it_was(model, text, words):
    chat = Chat(model, **OPTIONS)
    done_of(chat.send("Hello", max_tokens=5))
    before = list(chat.messages)
    with pytest.raises(Qwen35Error, match=words):
        chat.send(text)
    assert chat.messages == before
    assert done_of(chat.send("Again", max_tokens=5)).figures.cached_tokens > 0


def test_an_edited_history_falls_back_to_what_it_still_shares(model):
    chat = Chat(model, system="Be brief.", **OPTIONS)
    done_of(chat.send("One", max_tokens=8))
    done_of(chat.send("Two", max_tokens=8))
    shared = chat.messages[:3]
    chat.messages = [*shared]
    kept = done_of(chat.send("Three", max_tokens=8))
    fresh = done_of(model.stream(chat.messages[:-1], max_tokens=8, **OPTIONS))
    assert kept.message == fresh.message
    assert kept.figures.cached_tokens > 0


def test_only_the_last_states_are_kept(model):
    chat = Chat(model, **OPTIONS)
    for turn in range(5):
        done_of(chat.send(f"Question {turn}", max_tokens=3))
    assert len(chat._states) == 4
