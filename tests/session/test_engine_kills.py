"""An engine killed at any moment of a turn loses nothing it showed; two engines lose nothing.

The number of kills is small here. The full count, and the long run of two processes:

    QWEN35_KILLS=200 QWEN35_SECONDS=60 scripts/test tests/session/test_engine_kills.py -s
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import prefix_tree
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.load import load
from tests.session.durable_child import done_of

KILLS = int(os.environ.get("QWEN35_KILLS", "4"))
SECONDS = float(os.environ.get("QWEN35_SECONDS", "2"))

# Events after which it is killed, and the greatest number of them to wait for.
MOMENTS = (("started", 4), ("prefill", 12), ("partial", 150), ("done", 4))

Event = dict[str, Any]


def start(model: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.session.engine_child", str(model), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def killed(
    process: subprocess.Popen[str], event: str, times: int, wait: float
) -> tuple[list[Event], float]:
    """Kill the process `wait` seconds after the n-th such event; its events, and when it died."""
    assert process.stdout
    assert process.stderr
    events: list[Event] = []
    while times and (line := process.stdout.readline()):
        events.append(json.loads(line))
        times -= events[-1]["event"] == event
    time.sleep(wait)
    process.kill()
    died = time.monotonic()
    # Not `communicate`, which drops what was read ahead. A line without its end is incomplete.
    rest = process.stdout.read().splitlines(keepends=True)
    assert not process.stderr.read()
    process.wait()
    return events + [json.loads(line) for line in rest if line.endswith("\n")], died


def check_stored_files(folder: Path) -> int:
    """Check the database and every state file; the number of state files."""
    with closing(sqlite3.connect(folder / "library.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    stored = [
        s for m in prefix_tree.model_folders(folder / "states") for s in prefix_tree.stored_files(m)
    ]
    for state in stored:
        snapshot_file.verify(state.path)
    return len(stored)


def turns_of(events: list[Event]) -> list[dict[str, Any]]:
    """Each turn that began: its ids and its events."""
    turns: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "started":
            turns.append({**event, "partial": [], "done": None})
        elif event["event"] == "partial":
            turns[-1]["partial"].append(event)
        elif event["event"] == "done":
            turns[-1]["done"] = event
    return turns


def unsaved_seconds(library: Library, turn: dict[str, Any], died: float) -> float:
    """Age of the oldest text that was shown but is not in the library, when the process died."""
    stored = library.message(turn["id"])
    for event in turn["partial"]:
        for name in ("thinking", "content"):
            if not getattr(stored, name).startswith(event[name].strip()):
                return died - event["at"]
    return 0.0


@pytest.mark.parametrize("seconds_to_save", [0.0, 0.5])
def test_kills_at_any_moment_lose_nothing_that_was_shown(
    model_folder: Path, tmp_path: Path, seconds_to_save: float
) -> None:
    rng = random.Random(f"{KILLS} {seconds_to_save}")
    phases: Counter[str] = Counter()
    finished, lost = 0, [0.0]
    for _ in range(KILLS // 2):
        process = start(model_folder, tmp_path, "endless", str(seconds_to_save))
        # States are written during prefill and after the reply.
        event, often = rng.choice(MOMENTS)
        events, died = killed(process, event, rng.randint(1, often), rng.uniform(0, 0.02))
        phases[events[-1]["event"]] += 1
        with Library(tmp_path) as library:
            for turn in turns_of(events):
                question, reply = library.message(turn["user"]), library.message(turn["id"])
                assert question.content.startswith("Question")
                if turn["done"]:
                    finished += 1
                    assert reply.state == "complete"
                    assert reply.content == turn["done"]["content"]
                    assert reply.thinking == turn["done"]["thinking"]
                else:
                    lost.append(unsaved_seconds(library, turn, died))
            newest = library.list(1)[0]
            assert library.claim(newest.id)  # no process has it open any more
        check_stored_files(tmp_path)
    if seconds_to_save == 0:
        # Every event is saved before it is shown; the usual rule allows half a second.
        assert max(lost) == 0
    print(
        f"\nkilled after {dict(phases)}; {finished} replies done; {max(lost):.3f} s of a reply lost"
    )
    check_next_turn(model_folder, tmp_path)


def check_next_turn(model_folder: Path, folder: Path) -> None:
    """The next turn of the newest conversation is as if nothing had happened."""
    model = load(model_folder)
    with Library(folder) as library:
        chat = Chat(model, library=library, conversation=library.list(1)[0].id)
        question = {"role": "user", "content": "Question 9"}
        messages = [*chat.conversation.for_template(), question]
        options: dict[str, Any] = {"temperature": 0.0, "presence_penalty": 0.5}
        fresh = done_of(model.stream(messages, max_tokens=5, **options))
        done = done_of(chat.send("Question 9", max_tokens=5))
        assert done.message == fresh.message
        assert done.usage.cached_tokens > 0
        chat.close()
    assert not list((folder / "states").glob("*/*.tmp"))


def test_two_engines_on_one_library_lose_nothing(model_folder: Path, tmp_path: Path) -> None:
    Library(tmp_path).close()
    processes = [
        start(model_folder, tmp_path, "mixed", name, str(SECONDS)) for name in ("one", "two")
    ]
    results = [process.communicate() for process in processes]
    assert [errors for _, errors in results] == ["", ""]
    replies = 0
    with Library(tmp_path) as library:
        for lines, _ in results:
            events = [json.loads(line) for line in lines.splitlines()]
            print(events[-1])
            for turn in turns_of(events):
                replies += 1
                reply = library.message(turn["id"])
                assert (reply.state, reply.content) == ("complete", turn["done"]["content"])
                assert reply.thinking == turn["done"]["thinking"]
                tree = library.conversation(turn["conversation"])
                assert tree.message(turn["id"]).parent == turn["user"]
        trees = [library.conversation(row.id) for row in library.list(10**6)]
        stored = [m for tree in trees for m in tree.messages if m.role == "assistant"]
        assert len(stored) == replies > 0
    check_stored_files(tmp_path)
    assert prefix_tree.total_bytes(tmp_path / "states") <= 3_000_000
