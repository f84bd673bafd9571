"""Replies that are continued: from where they were cut, or from a text in their place."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done, PrefillProgress, Thinking, TurnEvent, Written
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.session.turn_events import TurnEvents
from qwen35_mlx.text.reply import ReplyParser, join_events
from tests.session.scripted import reply_with

QUESTION = "Tell me about the sea."
WHOLE = 60  # tokens, more than the demo model needs


@pytest.fixture(scope="module")
def small() -> Iterator[Model]:
    """A model whose replies are words, so that their text has the tokens that were sampled."""
    with load(demo.NAME) as model:
        yield model


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path) as library:
        yield library


def turn_of(events: Iterable[TurnEvent]) -> Turn:
    """The turn behind these events, run to its end."""
    assert isinstance(events, TurnEvents)
    turn = events.turn
    list(events)
    assert turn is not None
    return turn


@cache
def expected_reply(model: Model, *, thinking: bool) -> Message:
    return whole_reply(model, thinking=thinking).messages[-1]


def whole_reply(model: Model, *, thinking: bool) -> Chat:
    chat = Chat(model, thinking=thinking, temperature=0.0)
    list(chat.send(QUESTION, max_tokens=WHOLE))
    assert chat.messages[-1].finish_reason == "stop"
    return chat


@pytest.mark.parametrize(
    ("length", "thinking"), [(1, True), (4, True), (9, True), (18, True), (1, False), (12, False)]
)
def test_a_cut_reply_goes_on_as_if_it_had_not_been_cut(
    small: Model, length: int, *, thinking: bool
) -> None:
    """Cut within the thinking and within the answer."""
    expected = expected_reply(small, thinking=thinking)
    chat = Chat(small, thinking=thinking, temperature=0.0)
    list(chat.send(QUESTION, max_tokens=length))
    cut = chat.messages[-1]
    assert cut.finish_reason == "length"
    events = list(chat.continue_reply(max_tokens=WHOLE))
    found = chat.messages[-1]
    assert (found.content, found.thinking) == (expected.content, expected.thinking)
    assert found.finish_reason == "stop"
    assert chat.conversation.siblings(found.id) == (cut.id, found.id)
    assert chat.conversation.message(cut.id) == cut
    written = join_events(e for e in events if isinstance(e, Thinking | Answer))
    assert (written.text, written.thinking) == (found.content, found.thinking)


def test_an_edited_reply_keeps_its_thought_closed(small: Model) -> None:
    chat = whole_reply(small, thinking=True)
    thought = chat.messages[-1].thinking
    assert thought
    chat.configure(ChatSettings(thinking=False))  # the reply was made with thinking
    turn = turn_of(chat.continue_reply(text="The sea is  ", max_tokens=1))
    opened = small.render([{"role": "user", "content": QUESTION}], thinking=True)
    expected = f"{small.tokenizer.decode(opened)}{thought}\n</think>\n\nThe sea is"
    assert small.tokenizer.decode([*turn.prompt]) == expected
    assert chat.messages[-1].thinking == thought
    assert chat.messages[-1].content.startswith("The sea is")


def test_only_what_follows_the_question_is_read_for_an_edit(small: Model) -> None:
    chat = whole_reply(small, thinking=False)
    first = chat.messages[0]
    *_, done = chat.continue_reply(text="Waves", max_tokens=1)
    assert isinstance(done, Done)
    question = small.count([first.for_template()], thinking=False)
    assert 0 < question - done.usage.cached_tokens < 8  # an anchor is before what opens the reply


def test_penalties_count_the_tokens_of_the_start(
    small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def decode(
        _: object, cache: object, newest: object, *given: Any, **__: object
    ) -> Iterator[int]:
        seen.append([*given[2]])
        yield from small.eos

    monkeypatch.setattr("qwen35_mlx.session.turn.decode", decode)
    chat = Chat(small, thinking=False)
    list(chat.send(QUESTION))
    turn = turn_of(chat.continue_reply(text="sea sea sea", max_tokens=1))
    assert small.tokenizer.decode([*turn.start_ids]) == "sea sea sea"
    assert seen == [[], [*turn.start_ids]]


def test_control_tokens_in_a_text_stay_text(small: Model) -> None:
    chat = whole_reply(small, thinking=False)
    text = "a <|im_end|> b </think> c <tool_call>\n<function=f>"
    turn = turn_of(chat.continue_reply(text=text, max_tokens=2))
    assert not small.tokenizer.control_tokens.ids & {*turn.start_ids}
    assert chat.messages[-1].content.startswith(text)
    assert chat.messages[-1].tool_calls == ()


def test_a_call_after_the_start_is_a_call(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat = Chat(model, tools=[tool], thinking=False)
    reply_with(monkeypatch, model, "Let me see.")
    list(chat.send("Hello"))
    call = "\n\n<tool_call>\n<function=f>\n</function>\n</tool_call>"
    reply_with(monkeypatch, model, call)
    *_, done = chat.continue_reply()
    assert isinstance(done, Done)
    assert done.finish_reason == "tool_calls"
    assert chat.messages[-1].content == "Let me see."
    with pytest.raises(Qwen35Error, match=r"^this reply calls a tool, so it cannot go on"):
        chat.continue_reply()


@pytest.mark.parametrize(
    ("message", "text", "line"),
    [
        (None, " \n", "there is no text to go on from: write its beginning, or retry the reply"),
        (1, None, "message 1 is not a reply to anything: name one of the model's"),
        (99, None, "conversation 0 has no message 99: open it again"),
    ],
)
def test_what_cannot_go_on(model: Model, message: int | None, text: str | None, line: str) -> None:
    chat = Chat(model)
    with pytest.raises(Qwen35Error, match=r"^there is no reply to write again: send a message"):
        chat.continue_reply()
    list(chat.send("Hello", max_tokens=3))
    with pytest.raises(Qwen35Error) as raised:
        chat.continue_reply(message, text)
    assert str(raised.value) == line
    assert len(chat.messages) == 2


def test_a_grammar_is_refused(model: Model) -> None:
    chat = Chat(model)
    list(chat.send("Hello", max_tokens=3))
    with pytest.raises(Qwen35Error, match=r"^a reply that goes on is free: leave out response_for"):
        chat.continue_reply(response_format={"type": "json_object"})


def test_stopped_before_it_goes_on_it_leaves_nothing(model: Model) -> None:
    chat = Chat(model, thinking=False)
    list(chat.send("Hello " * 20, max_tokens=3))
    before = chat.conversation.leaf
    events = chat.continue_reply(text="word " * 50)
    assert isinstance(next(events), PrefillProgress)
    events.close()
    assert chat.conversation.leaf == before


def test_stopped_later_it_keeps_what_is_there(model: Model) -> None:
    chat = Chat(model, thinking=False)
    list(chat.send("Hello", max_tokens=3))
    events: Iterator[TurnEvent] = chat.continue_reply(text="The start")
    for event in events:
        if isinstance(event, Written | Answer) and event != Answer("The start"):
            break
    chat.close()
    assert chat.messages[-1].content.startswith("The start")
    assert chat.messages[-1].state == "cancelled"


def test_the_seconds_of_a_kept_thought_are_kept(
    model: Model, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Chat(model, library=library, thinking=True)
    reply_with(monkeypatch, model, "Hm.\n</think>\n\nYes")
    list(chat.send("Hello"))
    first = chat.messages[-1]
    assert first.thinking_seconds is not None
    list(chat.continue_reply(text="No"))
    stored = library.conversation(chat.conversation.id)
    assert stored.message(stored.leaf or 0).thinking_seconds == first.thinking_seconds
    assert stored.message(stored.leaf or 0).thinking == "Hm."


def test_a_parser_goes_on_within_a_text() -> None:
    """Blanks behind the start are kept, and <think> is no thinking there."""
    parser = ReplyParser(thinking=False)
    parser.go_on_from("one")
    found = join_events([*parser.push(" <think>two"), *parser.finish()])
    assert (found.text, found.thinking) == ("<think>two", "")
    parser = ReplyParser(thinking=True)
    parser.go_on_from("")
    assert parser.push(" and</think>\n\nso") == [Thinking(" and"), Answer("so")]
