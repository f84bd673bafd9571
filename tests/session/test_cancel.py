"""A turn can be cancelled at any event, and there is one after every chunk and every token."""

from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import cached_turn, recorder
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done, PrefillProgress, Thinking, TurnStarted, Written
from tests.session.durable_child import OPTIONS, done_of, messages_with
from tests.session.scripted import reply_with

CALL = "<tool_call>\n<function=write>\n<parameter=text>\n" + "many words " * 20
CALL_END = "\n</parameter>\n</function>\n</tool_call>"


@pytest.fixture
def library(tmp_path: Path):
    with Library(tmp_path) as library:
        yield library


def equal_to_fresh(model: Any, chat: Chat, question: str) -> None:
    """The next reply equals one after a fresh prefill of the whole conversation."""
    fresh = done_of(model.stream(messages_with(chat, question), max_tokens=8, **OPTIONS))
    assert done_of(chat.send(question, max_tokens=8)).message == fresh.message


def test_a_turn_cancelled_after_any_event_leaves_a_whole_conversation(model, library, monkeypatch):
    monkeypatch.setattr(cached_turn, "CHECKPOINT_TOKENS", 64)
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=4))
    before = chat.messages
    long = "word " * 120
    # Events: started, progress at 0 and at each checkpoint and chunk, then those of the reply.
    for number in range(14):
        events = chat.send(long, max_tokens=5)
        for _ in range(number + 1):
            event = next(events, None)
        events.close()
        if event is None or isinstance(event, Done):
            break
        reply = chat.conversation.messages[-1]
        assert reply.state == "cancelled"
        has_text = bool(reply.content or reply.thinking)
        assert has_text or not isinstance(event, Answer | Thinking)
        assert chat.messages[: len(before)] == before
        assert len(chat.messages) == len(before) + 2 * has_text
        stored = library.conversation(chat.conversation.id)
        assert stored.path() == chat.messages
        equal_to_fresh(model, chat, f"Question {number}")
        chat.branch(before[-1].id)
    assert number > 7


def test_every_token_of_a_tool_call_is_an_event(model, monkeypatch):
    reply_with(monkeypatch, model, CALL + CALL_END)
    chat = Chat(model, temperature=0.0)
    events = list(chat.send("Write"))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.finish_reason == "tool_calls"
    silent = [event.tokens for event in events if isinstance(event, Written)]
    assert silent == list(range(1, done.usage.reply_tokens - 1))


def test_tokens_without_text_are_events(model, monkeypatch):
    reply_with(monkeypatch, model, "Well", ends=False)
    chat = Chat(model, temperature=0.0)
    events = chat.send("Write")
    while (event := next(events)) != Written(12):
        assert isinstance(event, PrefillProgress | Answer | Written)
    events.close()
    assert chat.messages[-1].content == "Well"
    assert chat.messages[-1].state == "cancelled"


def test_a_growing_tool_call_is_saved_as_text(model, library, monkeypatch):
    monkeypatch.setattr(recorder, "SAVE_SECONDS", 0.0)
    reply_with(monkeypatch, model, "I write. " + CALL + CALL_END)
    chat = Chat(model, library=library, temperature=0.0)
    events = chat.send("Write")
    started = next(events)
    assert isinstance(started, TurnStarted)
    grown = []
    for event in events:
        if isinstance(event, Written):
            grown.append(library.message(started.reply).content)
        if len(grown) == 60:
            break
    assert grown[-1].startswith("I write. <tool_call>\n<function=write>\n<parameter=text>\nmany")
    assert sorted(grown, key=len) == grown
    events.close()
    # An unfinished call stays as text, as in a reply that ends within a call.
    stored = library.message(started.reply)
    assert stored.content.startswith(grown[-1])
    assert stored.tool_calls == ()


@pytest.mark.parametrize("text", ["I write. <tool_call>\n", "I write. " + CALL])
def test_a_reply_that_ends_within_a_call_is_stored_as_text(model, library, monkeypatch, text):
    reply_with(monkeypatch, model, text)
    chat = Chat(model, library=library, temperature=0.0)
    done = done_of(chat.send("Write"))
    assert done.message["content"] == text.strip()
    assert library.conversation(chat.conversation.id).for_template()[-1] == done.message


def test_a_question_is_not_stored_without_its_reply(model, library, monkeypatch):
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=4))
    before, real = chat.conversation, library.add_message

    def full(conversation: int, message: Message) -> Message:
        if message.role == "assistant":
            raise Qwen35Error("the disk is full: make room")
        return real(conversation, message)

    monkeypatch.setattr(library, "add_message", full)
    with pytest.raises(Qwen35Error, match="disk is full"):
        list(chat.send("Question 2"))
    assert chat.conversation == before
    assert library.conversation(before.id).path() == before.path()
    monkeypatch.undo()
    done_of(chat.send("Question 2", max_tokens=4))


def test_a_new_conversation_that_cannot_be_stored_leaves_nothing(model, library, monkeypatch):
    chat = Chat(model, library=library, **OPTIONS)

    def full(*_: Any, **__: Any):
        raise Qwen35Error("the disk is full: make room")

    monkeypatch.setattr(library, "add_message", full)
    with pytest.raises(Qwen35Error, match="disk is full"):
        list(chat.send("Question 1"))
    assert library.count() == 0
    assert chat.conversation.id == 0
    monkeypatch.undo()
    done_of(chat.send("Question 1", max_tokens=4))
    assert library.count() == 1
    with Library(library.folder) as other:
        assert not other.claim(chat.conversation.id)


def test_a_message_that_cannot_be_taken_back_is_reported(model, library, monkeypatch):
    chat = Chat(model, library=library, **OPTIONS)
    events = chat.send("word " * 100)
    next(events)

    def full(*_: Any, **__: Any):
        raise Qwen35Error("the disk is full: make room")

    monkeypatch.setattr(library, "select", full)
    events.close()  # raises nothing
    assert any("taken back: the disk is full" in line for line in chat.notices())
