"""Errors of every kind in the engine's thread: one line, and the next request works."""

import threading
from dataclasses import replace

import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.session import load as load_module
from qwen35_mlx.session import turn
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import Done, Failed, Loaded, Measured, Notice, Opened, TurnStarted
from qwen35_mlx.session.requests import Open, Send, UseModel
from tests.session.test_engine import SETTINGS as LONG
from tests.session.test_engine import of_kind, wait_for

SETTINGS = replace(LONG, max_tokens=12)


class PanicException(BaseException):
    """As pyo3 raises it for a panic of a Rust library: no `Exception`."""


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


ERRORS = [
    PanicException("called `Option::unwrap()`\non a `None` value"),
    MemoryError(),
    SystemExit(1),
    KeyboardInterrupt(),
    RecursionError("too deep"),
    UnspeakableError(),
    PanicException("x" * 100_000),
]


@pytest.fixture
def library(tmp_path):
    with Library(tmp_path / "library") as library:
        yield library


@pytest.fixture
def engine(model_folder, library):
    engine = EngineThread(str(model_folder), settings=SETTINGS, library=library)
    engine.start()
    wait_for(engine, Loaded)
    yield engine
    engine.close()


def failure(engine: EngineThread) -> str:
    """The line that the running request fails with."""
    failed = of_kind(wait_for(engine, Failed), Failed).message
    assert "\n" not in failed
    assert 10 < len(failed) < 700
    return failed


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_any_kind_fails_the_turn_and_the_next_one_runs(
    engine, library, monkeypatch, error
):
    def broken(*_, **__):
        raise error
        yield

    thread = engine._thread
    monkeypatch.setattr(turn, "decode", broken)
    engine.submit(Send("Question 1"))
    events = wait_for(engine, Failed)
    assert "memory" in events[-1].message or type(error).__name__ in events[-1].message
    tree = library.conversation(of_kind(events, TurnStarted).conversation)
    expected = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
    assert tree.messages[-1].state == expected
    monkeypatch.undo()
    engine.submit(Send("Question 2"))
    assert not any(isinstance(event, Notice) for event in wait_for(engine, Done))
    assert engine._thread is thread


@pytest.mark.parametrize("error", ERRORS[:3], ids=lambda error: type(error).__name__)
def test_a_load_that_fails_in_any_way_is_said_and_can_be_repeated(
    engine, model_folder, monkeypatch, error
):
    def broken(*_):
        raise error

    monkeypatch.setattr(load_module.Tokenizer, "from_files", broken)
    engine.submit(UseModel(str(model_folder)))
    failure(engine)
    monkeypatch.undo()
    engine.submit(Send("Question"))  # loads it
    assert any(isinstance(event, Loaded) for event in wait_for(engine, Done))


def test_a_measurement_that_panics_leaves_the_engine_running(engine, monkeypatch):
    tried = threading.Event()

    def broken(self):
        tried.set()
        raise PanicException

    monkeypatch.setattr("qwen35_mlx.session.chat.Chat.measured", broken)
    engine.submit(Open(None))
    wait_for(engine, Opened)
    assert tried.wait(60)
    monkeypatch.undo()
    engine.submit(Open(None))
    wait_for(engine, Measured)


def test_an_engine_that_ended_says_so_and_is_started_again(engine, monkeypatch):
    monkeypatch.setattr(engine, "_next", lambda: {}["no next"])
    engine.submit(Open(None))  # wakes the thread
    wait_for(engine, Opened)
    thread = engine._thread
    thread.join(60)
    assert not thread.is_alive()
    monkeypatch.undo()
    assert "KeyError" in failure(engine)
    engine.submit(Send("Question"))
    events = wait_for(engine, Done)
    assert any(isinstance(event, Loaded) for event in events)  # the model of the new thread
    assert engine._thread is not thread
