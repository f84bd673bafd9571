"""Tools through the engine: what is offered, results as messages, and results that stay."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Loaded,
    Opened,
    PrefillProgress,
    ToolCall,
)
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.requests import (
    AddResults,
    OfferTools,
    Open,
    Retry,
    Send,
    SendResults,
)
from qwen35_mlx.session.results import within_context
from tests.session.scripted import reply_with
from tests.session.test_engine import SETTINGS, of_kind, wait_for

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
READ = {"type": "function", "function": {"name": "read", "description": "", "parameters": SCHEMA}}
CALL = "<tool_call>\n<function=read>\n<parameter=n>\n7\n</parameter>\n</function>\n</tool_call>"


@pytest.fixture
def library(tmp_path: Path) -> Iterable[Library]:
    with Library(tmp_path / "library") as library:
        yield library


@pytest.fixture
def engine(model_folder: Path, library: Library) -> Iterable[EngineThread]:
    settings = replace(SETTINGS, max_tokens=200, thinking=False)
    engine = EngineThread(str(model_folder), settings=settings, library=library)
    engine.submit(OfferTools((READ,)))  # before there is a model
    engine.start()
    wait_for(engine, Loaded)
    yield engine
    engine.close()


def called(engine: EngineThread, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A turn in which the model calls the tool."""
    assert engine._loaded.model is not None
    reply_with(monkeypatch, engine._loaded.model, CALL)
    engine.submit(Send("Read it"))
    events = wait_for(engine, Done)
    reply_with(monkeypatch, engine._loaded.model, "So.")
    return events


def begin_endless_reply(engine: EngineThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a call without a result, ask for a reply that does not end by itself."""
    called(engine, monkeypatch)
    assert engine._loaded.model is not None
    reply_with(monkeypatch, engine._loaded.model, "So it goes", ends=False)
    engine.submit(Send("And now?"))


def path(library: Library) -> list[Message]:
    return list(library.conversation(1).path())


def test_a_call_of_an_offered_tool_and_its_result_are_stored(
    engine: EngineThread, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = called(engine, monkeypatch)
    # Without the schema, 7 would be text.
    assert of_kind(events, ToolCall) == ToolCall("read", {"n": 7})
    assert of_kind(events, Done).finish_reason == "tool_calls"
    engine.submit(SendResults(("seven", "and more")))
    events = wait_for(engine, Done)
    assert of_kind(events, Done).usage.cached_tokens > 0
    assert [m.role for m in path(library)] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [m.content for m in path(library)[2:4]] == ["seven", "and more"]


def test_offers_change_between_turns_and_survive_another_conversation(
    engine: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    assert engine._loaded.model is not None
    reply_with(monkeypatch, engine._loaded.model, "So.")
    for tools in ((READ,), (), (READ,)):
        engine.submit(OfferTools(tools))
        engine.submit(Open(None))
        engine.submit(Send("Hello"))
        sizes.append(of_kind(wait_for(engine, Done), Done).usage.prompt_tokens)
    assert sizes[0] == sizes[2] > sizes[1]


def test_results_that_get_no_reply_are_stored_and_the_chat_goes_on(
    engine: EngineThread, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    called(engine, monkeypatch)
    engine.cancel()  # as the chat does, before it adds what there is
    engine.submit(AddResults(("seven",)))
    engine.submit(Send("And now?"))
    wait_for(engine, Done)
    roles = [m.role for m in path(library)]
    assert roles == ["user", "assistant", "tool", "user", "assistant"]


def test_results_are_stored_when_what_was_before_them_is_cancelled(
    engine: EngineThread, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_endless_reply(engine, monkeypatch)
    engine.submit(AddResults(("seven",)))
    wait_for(engine, Answer)
    engine.cancel()
    wait_for(engine, Cancelled)
    engine.submit(Open(1))
    wait_for(engine, Opened)
    assert path(library)[-1].content == "seven"


def test_results_are_stored_by_an_engine_that_is_closed(
    engine: EngineThread, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_endless_reply(engine, monkeypatch)
    wait_for(engine, Answer)
    engine.submit(Send("Never begun"))
    engine.submit(AddResults(("seven",)))
    engine.close()
    assert path(library)[-1].content == "seven"
    assert "Never begun" not in [m.content for m in library.conversation(1).messages]


def test_results_stay_when_the_reply_to_them_is_cancelled(
    engine: EngineThread, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    called(engine, monkeypatch)
    engine.submit(SendResults(("word " * 150,)))
    events = wait_for(engine, PrefillProgress)
    engine.cancel()
    wait_for(engine, Cancelled, Done, seen=events)
    assert isinstance(events[-1], Cancelled)
    assert [m.role for m in path(library)] == ["user", "assistant", "tool"]
    engine.submit(Retry(path(library)[-1].id))
    wait_for(engine, Done)
    assert [m.role for m in path(library)] == ["user", "assistant", "tool", "assistant"]


def test_long_results_share_a_quarter_of_the_context(model: Model) -> None:
    share = model.context // 4
    long, short = within_context(model, ["wörd 7 " * 5_000, "short"])
    kept, _, note = long.rpartition("\n")
    assert share // 4 < len(model.tokenizer.encode(kept)) <= share // 2
    assert note.startswith("[Cut: these are the first ")
    assert short == "short"
    assert within_context(model, ["a" * 10]) == ["a" * 10]
    assert within_context(model, []) == []


def test_added_results_are_as_the_library_stores_them(model: Model, library: Library) -> None:
    with Chat(model, library=library) as chat:
        list(chat.send("Hello", max_tokens=4))
        chat.add_results([{"role": "tool", "content": "half \ud800"}])
        assert chat.messages[-1].content == library.conversation(1).path()[-1].content
