"""Turns of a chat compute only their own tokens, and equal a fresh prefill."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done, PrefillProgress, Written

OPTIONS: dict[str, Any] = {"temperature": 0.0, "presence_penalty": 0.5}


def template_messages(chat: Chat) -> list[dict[str, Any]]:
    return chat.conversation.for_template()


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
        # Cached up to the last reply; the reply itself, without its thinking, is new.
        computed = done.usage.prompt_tokens - done.usage.cached_tokens
        if turn:
            assert computed <= done.usage.prompt_tokens - before
        before = done.usage.prompt_tokens - len("<think>\n\n</think>\n\n")
    assert len(chat.messages) == 10


@pytest.mark.parametrize("thinking", [True, False])
def test_every_turn_equals_a_fresh_prefill(model, thinking):
    chat = Chat(model, thinking=thinking, **OPTIONS)
    for turn in range(4):
        question = {"role": "user", "content": f"Question {turn}, and some words"}
        fresh = done_of(
            model.stream(
                [*template_messages(chat), question], thinking=thinking, max_tokens=10, **OPTIONS
            )
        )
        continued = done_of(chat.send(question["content"], max_tokens=10))
        assert continued.message == fresh.message
        assert (continued.usage.cached_tokens > 0) == (turn > 0)
        ids, snapshot = chat._snapshots._memory[-1]
        cache = model.network.make_cache()
        cache.restore(snapshot)
        probe = mx.array([[7]])
        got = model.network.logits(model.network(probe, cache))[0, 0]
        np.testing.assert_allclose(np.array(got), model.logits([*ids, 7])[-1], atol=1e-4)


def test_a_cancelled_reply_stays_in_part(model):
    chat = Chat(model, **OPTIONS)
    events = chat.send("Hello", max_tokens=50)
    text = ""
    for event in events:
        if isinstance(event, Answer):
            text += event.text
        if len(text) > 10:
            break
    events.close()
    assert [m.role for m in chat.messages] == ["user", "assistant"]
    assert chat.messages[1].content == text.strip()
    assert chat.messages[1].state == "cancelled"
    assert done_of(chat.send("Go on", max_tokens=5)).usage.cached_tokens > 0


def test_cancelled_prefill_takes_the_message_back(model):
    chat = Chat(model, **OPTIONS)
    events = chat.send("word " * 100, max_tokens=5)
    assert isinstance(next(events), PrefillProgress)
    events.close()
    assert chat.messages == ()


@pytest.mark.parametrize(
    ("text", "words"), [("", "empty"), (" \n", "empty"), ("x " * 2000, "context")]
)
def test_a_refused_message_leaves_the_chat_unchanged(model, text, words):
    chat = Chat(model, **OPTIONS)
    done_of(chat.send("Hello", max_tokens=5))
    before = chat.messages
    with pytest.raises(Qwen35Error, match=words):
        chat.send(text)
    assert chat.messages == before
    assert done_of(chat.send("Again", max_tokens=5)).usage.cached_tokens > 0


def test_an_edit_restores_what_it_still_shares(model):
    chat = Chat(model, system="Be brief.", **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=8))
    done_of(chat.send("Question 2", max_tokens=8))
    old = chat.messages
    continued = done_of(chat.edit(old[2].id, "Three", max_tokens=8))
    fresh = done_of(model.stream(template_messages(chat)[:-1], max_tokens=8, **OPTIONS))
    assert continued.message == fresh.message
    assert continued.usage.cached_tokens > 0
    assert [m.content for m in chat.messages[:3]] == ["Question 1", old[1].content, "Three"]
    chat.select(old[3].id)
    assert chat.messages == old


def test_only_the_newest_snapshots_stay_in_memory(model):
    chat = Chat(model, **OPTIONS)
    for turn in range(5):
        done_of(chat.send(f"Question {turn}", max_tokens=3))
    assert len(chat._snapshots._memory) == 4


def test_a_retry_is_another_reply_to_the_same_question(model):
    chat = Chat(model, temperature=1.5, top_p=1.0)
    done_of(chat.send("Hello", max_tokens=9, seed=1))
    question, first = chat.messages
    done_of(chat.retry(max_tokens=9, seed=2))
    again, second = chat.messages
    assert (again, second.parent) == (question, question.id)
    assert second.content != first.content
    assert chat.conversation.siblings(second.id) == (first.id, second.id)
    done_of(chat.retry(first.id, max_tokens=9, seed=1))
    assert chat.messages[1].content == first.content


def test_a_branch_goes_on_from_the_middle(model):
    chat = Chat(model, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=5))
    done_of(chat.send("Question 2", max_tokens=5))
    middle = chat.messages[1].id
    chat.branch(middle)
    assert len(chat.messages) == 2
    done_of(chat.send("Other", max_tokens=5))
    assert [m.content for m in chat.messages[::2]] == ["Question 1", "Other"]
    chat.branch(None)
    assert chat.messages == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda chat: chat.retry(), "no reply"),
        (lambda chat: chat.retry(99), "no message 99"),
        (lambda chat: chat.edit(99, "x"), "no message 99"),
        (lambda chat: chat.branch(99), "no message 99"),
        (lambda chat: chat.compact(), "nothing to summarise"),
    ],
)
def test_a_missing_message_is_named(model, call, words):
    with pytest.raises(Qwen35Error, match=words):
        call(Chat(model, **OPTIONS))


def test_retry_needs_a_reply_and_edit_a_user_message(model):
    chat = Chat(model, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=5))
    question, reply = chat.messages
    with pytest.raises(Qwen35Error, match="not a reply"):
        chat.retry(question.id)
    with pytest.raises(Qwen35Error, match="not yours"):
        chat.edit(reply.id, "x")
    with pytest.raises(Qwen35Error, match="empty"):
        chat.edit(question.id, " ")


def test_context_used_is_the_length_of_the_rendering(model):
    chat = Chat(model, system="Be brief.", **OPTIONS)
    empty = chat.context_used
    done_of(chat.send("Question 1", max_tokens=5))
    rendered = model.template.render(template_messages(chat), add_generation_prompt=False)
    assert chat.context_used == len(model.tokenizer.encode_prompt(rendered)) > empty > 0
    assert 0 < chat.context_cached <= chat.context_used


def test_compacting_puts_a_summary_before_the_newest_turns(model):
    chat = Chat(model, system="Be brief.", **OPTIONS)
    for turn in range(4):
        done_of(chat.send(f"Question {turn}", max_tokens=5))
    old = chat.messages
    progress = list(chat.compact())
    assert all(isinstance(event, PrefillProgress | Written) for event in progress)
    read = [event for event in progress if isinstance(event, PrefillProgress)]
    assert any(event.cached for event in read)  # the summarised turns are in the prompt cache
    first, *rest = chat.messages
    assert first.role == "system"
    assert first.content.startswith("Be brief.\n\nSummary of the conversation so far:\n")
    assert [(m.role, m.content) for m in rest] == [(m.role, m.content) for m in old[4:]]
    done_of(chat.send("Next", max_tokens=5))
    # The second compaction repeats the system prompt, but not the old summary.
    done_of(chat.send("And next", max_tokens=5))
    list(chat.compact())
    assert chat.messages[0].content.count("Summary of the conversation") == 1
    assert chat.messages[0].content.startswith("Be brief.\n\n")
    chat.select(old[-1].id)
    assert chat.messages[: len(old)] == old


def test_a_cancelled_summary_changes_nothing(model):
    chat = Chat(model, **OPTIONS)
    for turn in range(3):
        done_of(chat.send(f"Question {turn}", max_tokens=5))
    before = chat.conversation
    events = chat.compact()
    while not isinstance(next(events), Written):  # then the summary is being written
        pass
    events.close()
    assert chat.conversation == before
