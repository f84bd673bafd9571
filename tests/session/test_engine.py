"""The engine thread: requests in, events out, with and without a library or a model."""

import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Loading,
    Measured,
    Notice,
    Opened,
    PrefillProgress,
    Titled,
    TurnStarted,
    Unloaded,
)
from qwen35_mlx.session.load import load
from qwen35_mlx.session.requests import (
    Compact,
    Configure,
    Continue,
    Edit,
    Open,
    Retry,
    Select,
    Send,
    Unload,
    UseModel,
)
from tests.library.messages import add_message

SETTINGS = ChatSettings(max_tokens=400, sampling={"temperature": 0.0, "presence_penalty": 0.5})


def wait_for(engine: EngineThread, *kinds: type, seen: list[Event] | None = None) -> list[Event]:
    """All events up to the first of these types; fails on `Failed` unless it is among them."""
    events = seen if seen is not None else []
    deadline = time.monotonic() + 60
    while not any(isinstance(event, kinds) for event in events):
        assert time.monotonic() < deadline, events
        assert Failed in kinds or not any(isinstance(e, Failed) for e in events), events
        time.sleep(0.005)
        events += engine.poll()
    return events


@pytest.fixture
def engine(model_folder):
    engine = EngineThread(
        str(model_folder),
        settings=SETTINGS,
    )
    engine.start()
    yield engine
    engine.close()


def test_the_engine_loads_once_and_replies_twice(engine):
    events = wait_for(engine, Loaded)
    assert isinstance(events[0], Loading)
    assert isinstance(events[-1], Loaded)
    assert events[-1].template_arguments == ("enable_thinking",)
    for _ in range(2):
        engine.submit(Send("Hello"))
        events = wait_for(engine, Done)
        assert any(isinstance(event, Answer) for event in events)


def test_cancel_ends_the_turn_and_the_next_one_runs(engine):
    wait_for(engine, Loaded)
    engine.submit(Send("Hello"))
    wait_for(engine, Answer)
    engine.cancel()
    events = wait_for(engine, Cancelled, Done)
    assert any(isinstance(event, Cancelled) for event in events)
    engine.submit(Send("Again"))
    wait_for(engine, Done)


def test_cancel_reaches_queued_turns_but_no_later_one(engine):
    engine.submit(Send("Hello"))
    engine.cancel()
    wait_for(engine, Cancelled)
    engine.submit(Send("Again"))
    assert not any(isinstance(event, Cancelled) for event in wait_for(engine, Done))


def test_a_refused_message_fails_the_turn_not_the_thread(engine):
    wait_for(engine, Loaded)
    engine.submit(Send("x " * 3000))
    failed = wait_for(engine, Failed)[-1]
    assert isinstance(failed, Failed)
    assert "context" in failed.message
    engine.submit(Send("Hello"))
    wait_for(engine, Done)


def test_a_model_without_a_template_is_noted_when_loaded_and_fails_the_turn(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    engine = EngineThread(str(folder), settings=SETTINGS)
    engine.start()
    try:
        events = wait_for(engine, Loaded)
        notices = [event.message for event in events if isinstance(event, Notice)]
        assert ["no chat template: it cannot chat" in line for line in notices] == [True]
        engine.submit(Open(None))
        wait_for(engine, Opened)
        engine.submit(Send("Hello"))
        failed = wait_for(engine, Failed)[-1]
        assert isinstance(failed, Failed)
        assert "has no chat template, so it cannot chat: add the" in failed.message
    finally:
        engine.close()


def test_an_adapter_is_of_the_first_model_alone(model_folder, tmp_path, monkeypatch):
    other = shutil.copytree(model_folder, tmp_path / "other")
    applied: list[Any] = []

    def recording(name: str, *, adapter_path: Any, **options: Any) -> Any:
        applied.append(adapter_path)
        return load(name, **options)

    monkeypatch.setattr("qwen35_mlx.session.load.load", recording)
    engine = EngineThread(str(model_folder), settings=SETTINGS, adapter_path="a")
    engine.start()
    wait_for(engine, Loaded)
    for name in (other, model_folder):
        engine.submit(UseModel(str(name)))
        wait_for(engine, Loaded)
    assert applied == ["a", None, "a"]
    engine.close()


def test_a_missing_model_fails_with_one_line(tmp_path):
    engine = EngineThread(str(tmp_path / "nothing"))
    engine.start()
    failed = wait_for(engine, Failed)[-1]
    engine.close()
    assert isinstance(failed, Failed)
    assert "nothing" in failed.message
    assert "\n" not in failed.message


def test_closing_while_a_reply_is_written_returns(engine):
    wait_for(engine, Loaded)
    engine.submit(Send("Hello"))
    wait_for(engine, Answer)
    engine.close()
    assert not engine._thread.is_alive()


@pytest.fixture
def library(tmp_path):
    with Library(tmp_path / "library") as library:
        yield library


@pytest.fixture
def durable(model_folder, library):
    engine = EngineThread(
        str(model_folder), settings=replace(SETTINGS, max_tokens=12), library=library
    )
    engine.start()
    wait_for(engine, Loaded)
    yield engine
    engine.close()


def of_kind(events: list[Event], kind: type) -> Any:
    """The only event of a type."""
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def test_what_was_read_to_open_a_conversation_is_not_read_again(durable, library):
    durable.submit(Send("Question 1"))
    number = of_kind(wait_for(durable, Done), TurnStarted).conversation
    durable.submit(Open(None))
    assert of_kind(wait_for(durable, Opened), Opened).stored is None
    durable.submit(Open(number))
    assert of_kind(wait_for(durable, Opened), Opened).stored == library.conversation(number)
    library.save_draft(number, "typed since")
    durable.submit(Open(number))  # it is open: what it has read may be old
    assert of_kind(wait_for(durable, Opened), Opened).stored is None


def test_a_turn_of_a_new_conversation_reports_its_ids(durable, library):
    durable.submit(Open(None))
    opened = of_kind(wait_for(durable, Opened), Opened)
    assert opened == Opened(None)
    durable.submit(Send("Question 1"))
    events = wait_for(durable, Done)
    started = of_kind(events, TurnStarted)
    assert events.index(started) < min(
        i for i, event in enumerate(events) if isinstance(event, PrefillProgress)
    )
    assert of_kind(events, Titled) == Titled(started.conversation, "Question 1")
    question, reply = library.conversation(started.conversation).path()
    assert (question.id, reply.id) == (started.user, started.reply)
    assert question.content == "Question 1"
    done = events[-1]
    assert isinstance(done, Done)
    assert (reply.state, reply.content) == ("complete", done.message["content"])
    assert reply.usage == done.usage
    assert reply.finish_reason == done.finish_reason


def test_a_reply_is_continued_from_another_text(durable, library):
    durable.submit(Send("Question 1"))
    started = of_kind(wait_for(durable, Done), TurnStarted)
    durable.submit(Continue(started.reply, "Hello"))
    events = wait_for(durable, Done)
    again = of_kind(events, TurnStarted)
    assert Answer("Hello") in events
    tree = library.conversation(started.conversation)
    assert tree.siblings(again.reply) == (started.reply, again.reply)
    assert tree.message(again.reply).content.startswith("Hello")


def test_a_retry_has_options_of_its_own(durable, library):
    durable.submit(Send("Question 1"))
    started = of_kind(wait_for(durable, Done), TurnStarted)
    durable.submit(Retry(started.reply, {"max_tokens": 2, "thinking": False}))
    assert of_kind(wait_for(durable, Done), Done).usage.reply_tokens == 2
    durable.submit(Retry(started.reply))
    assert of_kind(wait_for(durable, Done), Done).usage.reply_tokens > 2


def test_retry_edit_and_select_go_through_the_tree(durable, library):
    durable.submit(Send("Question 1"))
    started = of_kind(wait_for(durable, Done), TurnStarted)
    durable.submit(Retry(started.reply))
    again = of_kind(wait_for(durable, Done), TurnStarted)
    assert (again.conversation, again.user) == (started.conversation, started.user)
    assert again.reply != started.reply
    durable.submit(Edit(started.user, "Question 2"))
    edited = of_kind(wait_for(durable, Done), TurnStarted)
    tree = library.conversation(started.conversation)
    assert tree.siblings(edited.user) == (started.user, edited.user)
    assert tree.siblings(again.reply) == (started.reply, again.reply)
    durable.submit(Select(started.reply))
    assert of_kind(wait_for(durable, Measured), Measured).used > 0
    assert library.conversation(started.conversation).leaf == started.reply


def test_a_conversation_is_reopened_after_a_turn_of_another(durable):
    durable.submit(Send("Question 1 " * 20))
    first = of_kind(wait_for(durable, Done), TurnStarted).conversation
    durable.submit(Open(None))
    wait_for(durable, Opened)
    durable.submit(Send("Question 2"))
    assert of_kind(wait_for(durable, Done), TurnStarted).conversation != first
    durable.submit(Open(first))
    events = wait_for(durable, Measured)
    opened = of_kind(events, Opened)
    assert (opened.conversation, opened.read_only) == (first, False)
    measured = of_kind(events, Measured)
    assert measured.conversation == first
    assert 0 < measured.cached <= measured.used
    durable.submit(Send("Question 3"))
    done = wait_for(durable, Done)[-1]
    assert isinstance(done, Done)
    assert done.usage.cached_tokens >= measured.cached


def test_a_conversation_opened_before_the_model_is_measured_after_it(model_folder, library):
    number = library.create(title="Old")
    asked = add_message(library, number, None, "user", "Question 1 " * 20)
    add_message(library, number, asked.id, "assistant", "so")
    engine = EngineThread(str(model_folder), settings=SETTINGS, library=library)
    engine.submit(Open(number))
    engine.start()
    events = wait_for(engine, Measured)
    engine.close()
    kinds = [type(event) for event in events]
    assert kinds.index(Opened) < kinds.index(Loaded) < kinds.index(Measured)
    assert of_kind(events, Measured).used > 20


def test_opening_conversations_in_a_row_measures_only_the_last(durable, library, monkeypatch):
    numbers = [library.create(title=str(n)) for n in range(3)]
    all_submitted = threading.Event()
    opened = durable._open

    def slow(conversation: int | None, given: ChatSettings | None) -> None:
        all_submitted.wait(60)
        opened(conversation, given)

    monkeypatch.setattr(durable, "_open", slow)
    for number in numbers:
        durable.submit(Open(number))
    all_submitted.set()
    events = wait_for(durable, Measured)
    assert [e.conversation for e in events if isinstance(e, Opened)] == numbers
    assert of_kind(events, Measured).conversation == numbers[-1]


def test_a_conversation_open_elsewhere_is_read_only(durable, library):
    durable.submit(Send("Question 1"))
    number = of_kind(wait_for(durable, Done), TurnStarted).conversation
    durable.submit(Open(None))
    wait_for(durable, Opened)
    with Library(library.folder) as other:
        assert other.claim(number)
        durable.submit(Open(number))
        assert of_kind(wait_for(durable, Opened), Opened).read_only
        durable.submit(Send("Question 2"))
        failed = wait_for(durable, Failed)[-1]
        assert isinstance(failed, Failed)
        assert "another window" in failed.message
    durable.submit(Open(None))
    durable.submit(Open(number))
    events: list[Event] = []
    while sum(isinstance(event, Opened) for event in events) < 2:
        events += durable.poll()
    assert not [e for e in events if isinstance(e, Opened)][-1].read_only


def test_a_conversation_open_elsewhere_is_read_only_without_a_model_too(library):
    number = library.create()
    engine = EngineThread(None, library=library)
    engine.start()
    with Library(library.folder) as other:
        assert other.claim(number)
        engine.submit(Open(number))
        assert of_kind(wait_for(engine, Opened), Opened).read_only
        other.release(number)
        engine.submit(Open(None))
        engine.submit(Open(number))
        events = wait_for(engine, Opened)
        while len(events) < 2:
            events += wait_for(engine, Opened)
        assert not of_kind(events[1:], Opened).read_only
        assert not other.claim(number)
        engine.submit(Open(None))
        wait_for(engine, Opened)
        assert other.claim(number)
    engine.close()


def test_the_next_turn_after_unload_loads_again(durable):
    durable.submit(Send("Question 1"))
    wait_for(durable, Done)
    durable.submit(Unload())
    wait_for(durable, Unloaded)
    assert durable._loaded.model is None
    durable.submit(Send("Question 2"))
    events = wait_for(durable, Done)
    assert any(isinstance(event, Loaded) for event in events)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.usage.cached_tokens > 0  # from disk


def test_a_missing_model_leaves_the_loaded_one(durable, tmp_path):
    durable.submit(UseModel(str(tmp_path / "nothing")))
    failed = wait_for(durable, Failed)[-1]
    assert isinstance(failed, Failed)
    assert "nothing" in failed.message
    durable.submit(Send("Question 1"))
    assert not any(isinstance(event, Loading) for event in wait_for(durable, Done))


def test_another_model_goes_on_with_the_conversation(durable, library, model_folder, tmp_path):
    durable.submit(Send("Question 1"))
    number = of_kind(wait_for(durable, Done), TurnStarted).conversation
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    durable.submit(UseModel(str(other)))
    assert of_kind(wait_for(durable, Loaded), Loaded).model == str(other)
    durable.submit(Send("Question 2"))
    assert of_kind(wait_for(durable, Done), TurnStarted).conversation == number
    assert [m.model for m in library.conversation(number).path()[1::2]] == [
        str(model_folder),
        str(other),
    ]


def test_configure_changes_this_conversation_and_new_ones(durable, library):
    durable.submit(Send("Question 1"))
    first = of_kind(wait_for(durable, Done), TurnStarted).conversation
    settings = replace(SETTINGS, system="Be brief.", max_tokens=3)
    durable.submit(Configure(ChatSettings(**{f: getattr(settings, f) for f in settings.__slots__})))
    durable.submit(Send("Question 2"))
    done = wait_for(durable, Done)[-1]
    assert isinstance(done, Done)
    assert done.usage.reply_tokens <= 3
    assert library.conversation(first).settings == settings
    durable.submit(Open(None))
    durable.submit(Send("Question 3"))
    second = of_kind(wait_for(durable, Done), TurnStarted).conversation
    assert library.conversation(second).settings == settings


def test_settings_given_with_a_conversation_replace_its_own(durable, library):
    durable.submit(Configure(ChatSettings(system="Be brief.", sampling={"top_k": 5})))
    durable.submit(Send("Question 1"))
    first = of_kind(wait_for(durable, Done), TurnStarted).conversation
    given = ChatSettings(system="Be kind.", max_tokens=3, sampling={"temperature": 0.5})
    durable.submit(Open(first, given))
    wait_for(durable, Opened)
    found = library.conversation(first).settings
    assert (found.system, found.max_tokens) == ("Be kind.", 3)
    assert (found.sampling["temperature"], found.sampling["top_k"]) == (0.5, 5)
    durable.submit(Unload())
    wait_for(durable, Unloaded)
    durable.submit(Open(None))
    wait_for(durable, Opened)
    durable.submit(Open(first, ChatSettings(system="Be quick.")))
    wait_for(durable, Opened)
    found = library.conversation(first).settings
    assert (found.system, found.max_tokens) == ("Be quick.", 3)
    durable.submit(Open(None))
    wait_for(durable, Opened)
    durable.submit(Open(first))
    wait_for(durable, Opened)
    assert library.conversation(first).settings == found


def test_compacting_opens_the_new_path(durable, library):
    for number in range(3):
        durable.submit(Send(f"Question {number}"))
        events = wait_for(durable, Done)
    number = of_kind(events, TurnStarted).conversation
    before = library.conversation(number).leaf
    durable.submit(Compact())
    wait_for(durable, Opened)
    tree = library.conversation(number)
    assert tree.leaf != before
    assert tree.path()[0].role == "system"
    durable.submit(Compact())
    failed = wait_for(durable, Failed)[-1]
    assert isinstance(failed, Failed)
    assert "nothing to summarise" in failed.message


def test_a_turn_cancelled_before_its_reply_is_taken_back(durable, library):
    durable.submit(Send("word " * 150))
    events = wait_for(durable, PrefillProgress)
    durable.cancel()
    wait_for(durable, Cancelled, seen=events)
    tree = library.conversation(of_kind(events, TurnStarted).conversation)
    assert tree.leaf is None
    assert [m.state for m in tree.messages] == ["complete", "cancelled"]


def test_an_error_within_a_turn_ends_the_turn_only(durable, library, monkeypatch):
    from qwen35_mlx.session import turn

    def broken(*_, **__):
        raise ValueError("two\nlines")
        yield

    monkeypatch.setattr(turn, "decode", broken)
    durable.submit(Send("Question 1"))
    events = wait_for(durable, Failed)
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert "ValueError: two lines" in failed.message
    tree = library.conversation(of_kind(events, TurnStarted).conversation)
    assert [(m.state, m.error) for m in tree.messages][1] == ("failed", "two lines")
    monkeypatch.undo()
    durable.submit(Send("Question 2"))
    wait_for(durable, Done)


def test_damaged_states_are_reported_and_computed_again(durable, library):
    durable.submit(Send("Question 1"))
    number = of_kind(wait_for(durable, Done), TurnStarted).conversation
    durable.submit(Open(None))
    wait_for(durable, Opened)
    for path in (library.folder / "states").glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    durable.submit(Open(number))
    durable.submit(Send("Question 2"))
    events = wait_for(durable, Done)
    assert "damaged" in of_kind(events, Notice).message
    done = events[-1]
    assert isinstance(done, Done)
    assert done.usage.cached_tokens == 0


def test_without_a_model_everything_else_works(library):
    engine = EngineThread(None, library=library)
    engine.start()
    number = library.create(title="Old")
    engine.submit(Open(number))
    assert of_kind(wait_for(engine, Opened), Opened) == Opened(number, "Old")
    engine.submit(Send("Hello"))
    failed = wait_for(engine, Failed)[-1]
    engine.close()
    assert isinstance(failed, Failed)
    assert "choose one" in failed.message


def test_events_and_the_engine_import_no_mlx():
    code = (
        "import sys, qwen35_mlx, qwen35_mlx.session.events, qwen35_mlx.session.engine;"
        "print([m for m in ('mlx', 'mlx.core', 'numpy', 'mlx_lm') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
