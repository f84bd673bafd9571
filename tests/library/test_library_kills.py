"""A library keeps every reported change when its process is killed or two processes share it.

By default the tests kill few processes and run briefly. For a long run:

    QWEN35_KILLS=200 QWEN35_SECONDS=60 scripts/test tests/library/test_library_kills.py
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.library import schema
from qwen35_mlx.library.connections import connect
from qwen35_mlx.library.library import FILE, Library
from tests.library.messages import write_old_library

KILLS = int(os.environ.get("QWEN35_KILLS", "6"))
SECONDS = float(os.environ.get("QWEN35_SECONDS", "1"))
WORKER = Path(__file__).with_name("library_worker.py")


def start_worker(folder: Path, seed: int, task: str, seconds: float = 60) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), str(seed), task, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], lines: int, wait: float = 0) -> list[dict[str, Any]]:
    """Kill the worker `wait` seconds after a number of lines; the events it reported."""
    assert process.stdout
    assert process.stderr
    output = [process.stdout.readline() for _ in range(lines)]
    time.sleep(wait)
    process.kill()
    # `communicate` would lose buffered lines. A line without a newline is incomplete.
    output += process.stdout.read().splitlines(keepends=True)
    assert not process.stderr.read()
    process.wait()
    return [json.loads(line) for line in output if line.endswith("\n")]


class ExpectedLibrary:
    """What the library must hold, according to the events that the workers reported."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[int, str]] = {}
        self.partial: dict[int, tuple[int, str]] = {}
        self.titles: dict[int, str] = {}
        self.drafts: dict[int, str] = {}
        self.new_draft = ""
        self.deleted: set[int] = set()
        # The one conversation that a worker may have changed after its last report.
        self.uncertain = 0

    def add(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            conversation = event.get("conversation", 0)
            match event["event"]:
                case "message":
                    self.messages[event["id"]] = (conversation, event["content"])
                    self.partial.pop(event["id"], None)
                case "begun":
                    self.partial[event["id"]] = (conversation, "")
                case "update":
                    self.partial[event["id"]] = (conversation, event["content"])
                case "renamed":
                    self.titles[conversation] = event["title"]
                case "draft":
                    self.drafts[conversation] = event["text"]
                case "new draft":
                    self.new_draft = event["text"]
                case "deleted":
                    self.deleted.add(conversation)
                case "restored":
                    self.deleted.discard(conversation)
        self.uncertain = events[-1].get("conversation", 0)

    def check(self, library: Library) -> None:
        deleted = {summary.id for summary in library.deleted()}
        assert deleted ^ self.deleted <= {self.uncertain}
        self.deleted = deleted
        stored_ids = {number for number, _ in [*self.messages.values(), *self.partial.values()]}
        trees = {number: library.conversation(number) for number in stored_ids - deleted}
        for message, (number, content) in self.messages.items():
            if number in trees:
                found = trees[number].message(message)
                assert found.content == content
                assert found.state != "partial"
        for message, (number, content) in self.partial.items():
            if number in trees:
                # Everything that was reported, and maybe one save that was not.
                assert trees[number].message(message).content.startswith(content)
        for kept, name in ((self.titles, "title"), (self.drafts, "draft")):
            for number in kept.keys() & trees.keys():
                stored = getattr(trees[number], name)
                assert stored == kept[number] or number == self.uncertain
                kept[number] = stored


def check_file(folder: Path) -> None:
    with closing(connect(folder / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        # Raises an error if the index differs from the messages.
        db.execute("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")


def test_killed_while_writing(tmp_path: Path) -> None:
    rng = random.Random(KILLS)
    expected = ExpectedLibrary()
    for kill in range(KILLS):
        worker = start_worker(tmp_path, kill, "turns")
        expected.add(kill_after(worker, rng.randrange(2, 40), rng.uniform(0, 0.01)))
        with Library(tmp_path) as library:
            expected.check(library)
            for number in {number for number, _ in expected.partial.values()}:
                assert library.claim(number)  # the kill released the claim
        check_file(tmp_path)
    assert len(expected.messages) > KILLS
    assert expected.partial
    assert expected.deleted


def test_a_kill_leaves_the_draft_of_the_new_conversation(tmp_path: Path) -> None:
    drafts: list[str] = []
    events: list[dict[str, Any]] = []
    for seed in range(20):
        events = kill_after(start_worker(tmp_path, seed, "turns"), 40)
        if drafts := [event["text"] for event in events if event["event"] == "new draft"]:
            break
    with Library(tmp_path) as library:
        # One more draft may have been saved and not reported.
        assert library.draft(None)
        assert library.draft(None) == drafts[-1] or events[-1]["event"] != "new draft"


def make_version_2_library(folder: Path, messages: int) -> None:
    """Write a library in format 2, which has no checksums."""
    texts = [f"message {number} " + "of many words " * 40 for number in range(messages)]
    write_old_library(folder, 2, texts)


def check_migration(folder: Path, versions: set[int]) -> None:
    with closing(sqlite3.connect(folder / FILE)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        columns = {row[1] for row in db.execute("PRAGMA table_info(conversations)")}
    assert version in versions
    # A migration is applied as a whole or not at all.
    assert ({"progress", "states", "states_by_conversation"} & names != set()) == (version >= 3)
    assert ("conversations_by_change" in names) == (version >= 4)
    assert ("shelf" in columns) == (version == 5)
    with Library(folder) as library:
        assert len(library.conversation(1).messages) == 1500
        assert library.search("message 1499")
    check_file(folder)


@pytest.mark.parametrize("statements", range(len(schema.MIGRATIONS[-1]) + 1))
def test_killed_after_each_statement_of_a_migration(tmp_path: Path, statements: int) -> None:
    make_version_2_library(tmp_path / "old", 1500)
    kill_after(start_worker(tmp_path / "old", statements, "stall"), 1)
    check_migration(tmp_path / "old", {len(schema.MIGRATIONS) - 1})


def test_killed_while_migrating(tmp_path: Path) -> None:
    make_version_2_library(tmp_path / "old", 1500)
    rng = random.Random(KILLS)
    for kill in range(KILLS // 2):
        folder = shutil.copytree(tmp_path / "old", tmp_path / "copy")
        kill_after(start_worker(folder, kill, "migrate"), 1, rng.uniform(0, 0.15))
        check_migration(folder, {2, 3, 4, 5})
        shutil.rmtree(folder)


def test_killed_while_created(tmp_path: Path) -> None:
    rng = random.Random(KILLS)
    for kill in range(KILLS // 4):
        folder = tmp_path / str(kill)
        kill_after(start_worker(folder, kill, "migrate"), 1, rng.uniform(0, 0.03))
        with Library(folder) as library:
            library.create()
        check_file(folder)


def test_two_processes_share_a_library(tmp_path: Path) -> None:
    workers = [start_worker(tmp_path, seed, "shared", SECONDS) for seed in range(2)]
    results = [worker.communicate() for worker in workers]
    assert [errors for _, errors in results] == ["", ""]
    expected = ExpectedLibrary()
    for lines, _ in results:
        expected.add([json.loads(line) for line in lines.splitlines()])
    assert expected.messages
    assert not expected.partial
    with Library(tmp_path) as library:
        expected.check(library)
        stored = sum(len(library.conversation(row.id).messages) for row in library.list(10**6))
        assert stored == len(expected.messages)
    check_file(tmp_path)
