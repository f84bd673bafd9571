"""Edges of the engine: silent cancels, other windows, several requests at once."""

from dataclasses import replace

import pytest

from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import (
    Cancelled,
    Done,
    Failed,
    Loaded,
    Measured,
    Opened,
    TurnStarted,
    Unloaded,
    Written,
)
from qwen35_mlx.session.requests import Compact, Configure, Open, Send, Unload
from tests.library.messages import add_message
from tests.session.scripted import reply_with
from tests.session.test_engine import SETTINGS, of_kind, wait_for


@pytest.fixture
def library(tmp_path):
    with Library(tmp_path / "library") as library:
        yield library


@pytest.fixture
def durable(model_folder, library):
    settings = replace(SETTINGS, max_tokens=12)
    engine = EngineThread(str(model_folder), settings=settings, library=library)
    engine.start()
    wait_for(engine, Loaded)
    yield engine
    engine.close()


def test_conversations_without_a_question_are_measured(library):
    """Templates reject messages without a question, and measuring needs a rendering."""
    engine = EngineThread("demo", settings=ChatSettings(system="Be brief."), library=library)
    engine.start()
    wait_for(engine, Loaded)
    engine.submit(Open(None))
    events = wait_for(engine, Measured, Failed)
    assert of_kind(events, Opened).conversation is None
    assert 0 < of_kind(events, Measured).used < 20
    number = library.create()
    add_message(
        library, number, None, "assistant", "Hello"
    )  # as an imported conversation may begin
    engine.submit(Open(number))
    assert of_kind(wait_for(engine, Measured, Failed), Measured).used == 0
    engine.close()


def test_cancel_works_within_a_tool_call_and_within_a_summary(durable, monkeypatch):
    model = durable._loaded.model
    assert model
    durable.submit(Configure(ChatSettings()))  # no token limit that could end the reply first
    reply_with(monkeypatch, model, "<tool_call>\n<function=f>\n<parameter=x>\n", ends=False)
    durable.submit(Send("Question 1"))
    events = wait_for(durable, Written)
    durable.cancel()
    wait_for(durable, Cancelled, Done, seen=events)
    assert not any(isinstance(event, Done) for event in events)
    monkeypatch.undo()
    durable.submit(Configure(replace(SETTINGS, max_tokens=5)))
    for number in range(3):
        durable.submit(Send(f"Question {number}"))
        wait_for(durable, Done)
    reply_with(monkeypatch, model, "We spoke of ", ends=False)
    durable.submit(Compact())
    events = wait_for(durable, Written)
    durable.cancel()
    wait_for(durable, Cancelled, Opened, seen=events)
    assert not any(isinstance(event, Opened) for event in events)


def test_what_is_no_request_is_refused(durable):
    with pytest.raises(TypeError, match="ChatSettings is no request"):
        durable.submit(ChatSettings())


def test_settings_of_a_conversation_open_elsewhere_are_not_changed(durable, library):
    durable.submit(Send("Question 1"))
    number = of_kind(wait_for(durable, Done), TurnStarted).conversation
    durable.submit(Open(None))
    wait_for(durable, Opened)
    before = library.conversation(number).settings
    with Library(library.folder) as other:
        assert other.claim(number)
        for _ in range(2):  # open for reading, then with the model unloaded
            durable.submit(Open(number))
            wait_for(durable, Opened)
            durable.submit(Configure(ChatSettings(system="Mine.")))
            durable.submit(Unload())
            wait_for(durable, Unloaded)
            assert library.conversation(number).settings == before
    durable.submit(Configure(ChatSettings(system="Mine.")))
    durable.submit(Unload())
    wait_for(durable, Unloaded)
    assert library.conversation(number).settings.system == "Mine."


def test_queued_turns_run_in_order_and_one_cancel_stops_both(durable, library):
    durable.submit(Send("Question 1"))
    durable.submit(Send("Question 2"))
    events = wait_for(durable, Done)
    while sum(isinstance(event, Done) for event in events) < 2:
        events += durable.poll()
    first, second = (event for event in events if isinstance(event, TurnStarted))
    path = library.conversation(first.conversation).path()
    assert [m.id for m in path] == [first.user, first.reply, second.user, second.reply]
    durable.submit(Send("word " * 100))
    durable.submit(Send("word " * 100))
    durable.cancel()
    events = wait_for(durable, Cancelled)
    while sum(isinstance(event, Cancelled) for event in events) < 2:
        events += durable.poll()
    assert library.conversation(first.conversation).path() == path
    durable.submit(Send("Question 3"))
    wait_for(durable, Done)


def test_a_conversation_deleted_while_open_fails_with_one_line(durable, library):
    durable.submit(Send("Question 1"))
    number = of_kind(wait_for(durable, Done), TurnStarted).conversation
    library.delete(number)  # by this window, as its screen may do
    durable.submit(Send("Question 2"))
    failed = wait_for(durable, Failed)[-1]
    assert isinstance(failed, Failed)
    assert "was deleted" in failed.message
    library.undelete(number)
    durable.submit(Send("Question 3"))
    wait_for(durable, Done)
    contents = [m.content for m in library.conversation(number).path()]
    assert contents[::2] == ["Question 1", "Question 3"]
