"""A disk that fills up during turns: one line, no partial files, and turns work afterwards."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import disk, prefix_tree
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import Done, Event, Failed, Loaded, Notice
from qwen35_mlx.session.requests import Send
from tests.prompt_cache.test_disk import (
    IDS,
    MODEL,
    next_logits,
    prefilled,
    restore_and_run,
    store_snapshots,
)
from tests.session.test_engine import SETTINGS, wait_for


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let snapshots fill the disk completely, as another program could."""
    monkeypatch.setattr(disk, "RESERVE", -(10**9))


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk but for `leave` bytes."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if leave:
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - leave)
    return ballast


def test_a_full_disk_leaves_only_whole_files(model: Any, small_disk: Path) -> None:
    ballast = fill(small_disk, leave=300_000)
    states = store_snapshots(model, small_disk / "states", *range(20, 300, 20))
    (line,) = states.notices()
    assert "No space left" in line
    assert not list((small_disk / "states" / MODEL).glob("*.tmp"))
    stored = list(prefix_tree.stored_files(small_disk / "states" / MODEL))
    assert stored
    for one in stored:
        snapshot_file.verify(one.path)
    position, logits = restore_and_run(model, states, IDS)
    assert 0 < position < 280
    np.testing.assert_allclose(logits, next_logits(model, prefilled(model, IDS)), atol=1e-4)
    ballast.unlink()
    states.add(IDS[:280], prefilled(model, IDS[:280]).snapshot())
    assert restore_and_run(model, states, IDS)[0] == 280
    states.close()


def test_turns_on_a_full_disk(model_folder: Path, small_disk: Path) -> None:
    with Library(small_disk / "home") as library:
        engine = EngineThread(str(model_folder), settings=SETTINGS, library=library)
        engine.start()
        wait_for(engine, Loaded)
        engine.submit(Send("Question 1"))
        wait_for(engine, Done)
        before = [m.content for m in library.conversation(1).messages]
        ballast = fill(small_disk)
        lines: list[str] = []
        for turn in range(60):  # until the database log has no room either
            engine.submit(Send(f"Question {turn} " + "word " * 100))
            events: list[Event] = wait_for(engine, Done, Failed)
            lines += [e.message for e in events if isinstance(e, Notice | Failed)]
            if isinstance(events[-1], Failed) or any(isinstance(e, Failed) for e in events):
                break
        assert any("disk is full" in line for line in lines), lines
        assert not any("internal error" in line or "\n" in line for line in lines)
        ballast.unlink()
        engine.submit(Send("Question 9"))
        wait_for(engine, Done)
        path = [m.content for m in library.conversation(1).path()]
        assert path[: len(before)] == before
        assert path[-2] == "Question 9"
        engine.close()
    for state in prefix_tree.stored_files(
        next(iter(prefix_tree.model_folders(small_disk / "home/states")))
    ):
        snapshot_file.verify(state.path)
