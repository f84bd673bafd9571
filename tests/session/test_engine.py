import subprocess
import sys
import time

import pytest

from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import Answer, Cancelled, Done, Event, Failed, Loaded, Loading
from qwen35_mlx.session.requests import Send


def wait_for(engine: EngineThread, *kinds: type, seen: list[Event] | None = None) -> list[Event]:
    """All events up to the first of these kinds."""
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
        chat={"temperature": 0.0, "presence_penalty": 0.5},
        turn={"max_tokens": 400},
    )
    engine.start()
    yield engine
    engine.close()


def test_loads_then_replies_then_replies_again(engine):
    events = wait_for(engine, Loaded)
    assert isinstance(events[0], Loading)
    for _ in range(2):
        engine.ask(Send("Hello"))
        events = wait_for(engine, Done)
        assert any(isinstance(event, Answer) for event in events)


def test_cancel_ends_the_turn_and_the_next_one_runs(engine):
    wait_for(engine, Loaded)
    engine.ask(Send("Hello"))
    wait_for(engine, Answer)
    engine.cancel()
    events = wait_for(engine, Cancelled, Done)
    assert any(isinstance(event, Cancelled) for event in events)
    engine.ask(Send("Again"))
    wait_for(engine, Done)


def test_cancel_reaches_a_turn_that_has_not_begun_and_no_later_one(engine):
    engine.ask(Send("Hello"))
    engine.cancel()
    wait_for(engine, Cancelled)
    engine.ask(Send("Again"))
    assert not any(isinstance(event, Cancelled) for event in wait_for(engine, Done))


def test_a_refused_message_fails_the_turn_not_the_thread(engine):
    wait_for(engine, Loaded)
    engine.ask(Send("x " * 3000))
    failed = wait_for(engine, Failed)[-1]
    assert isinstance(failed, Failed)
    assert "context" in failed.message
    engine.ask(Send("Hello"))
    wait_for(engine, Done)


def test_a_model_that_is_not_there_fails_in_one_line(tmp_path):
    engine = EngineThread(str(tmp_path / "nothing"))
    engine.start()
    failed = wait_for(engine, Failed)[-1]
    engine.close()
    assert isinstance(failed, Failed)
    assert "nothing" in failed.message
    assert "\n" not in failed.message


def test_closing_while_a_reply_is_written_returns(engine):
    wait_for(engine, Loaded)
    engine.ask(Send("Hello"))
    wait_for(engine, Answer)
    engine.close()
    assert not engine._thread.is_alive()


def test_events_and_the_engine_import_no_mlx():
    code = (
        "import sys, qwen35_mlx, qwen35_mlx.session.events, qwen35_mlx.session.engine;"
        "print([m for m in ('mlx', 'mlx.core', 'numpy', 'mlx_lm') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
