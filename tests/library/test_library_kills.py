"""Killed at any moment, the library keeps what it said it has; two processes keep all of both.

The number of kills is small here. The full count, and the long run of two processes:

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

from qwen35_mlx.library import database
from qwen35_mlx.library.library import FILE, Library
from tests.library.messages import add_message

KILLS = int(os.environ.get("QWEN35_KILLS", "16"))
SECONDS = float(os.environ.get("QWEN35_SECONDS", "2"))
WORKER = Path(__file__).with_name("library_worker.py")


def start(folder: Path, seed: int, what: str, seconds: float = 60) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), str(seed), what, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(process: subprocess.Popen[str], lines: int, wait: float = 0) -> list[dict[str, Any]]:
    """Kill it once it has said so many lines, or a moment later; what it said."""
    assert process.stdout
    assert process.stderr
    said = [process.stdout.readline() for _ in range(lines)]
    time.sleep(wait)
    process.kill()
    # Not `communicate`: it forgets what was read ahead. A line without its end was being written.
    said += process.stdout.read().splitlines(keepends=True)
    assert not process.stderr.read()
    process.wait()
    return [json.loads(line) for line in said if line.endswith("\n")]


class Promised:
    """What the library must hold, by what its users were told."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[int, str]] = {}
        self.partial: dict[int, tuple[int, str]] = {}
        self.titles: dict[int, str] = {}
        self.drafts: dict[int, str] = {}
        self.new_draft = ""
        self.deleted: set[int] = set()
        # What was done and not told any more before the kill concerns one conversation.
        self.unsure = 0

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
        self.unsure = events[-1].get("conversation", 0)

    def check(self, library: Library) -> None:
        gone = {summary.id for summary in library.deleted()}
        assert gone ^ self.deleted <= {self.unsure}
        self.deleted = gone
        known = {number for number, _ in [*self.messages.values(), *self.partial.values()]}
        trees = {number: library.conversation(number) for number in known - gone}
        for message, (number, content) in self.messages.items():
            if number in trees:
                found = trees[number].message(message)
                assert found.content == content
                assert found.state != "partial"
        for message, (number, content) in self.partial.items():
            if number in trees:
                # All that was saved before the kill, and at most what was being saved.
                assert trees[number].message(message).content.startswith(content)
        for kept, name in ((self.titles, "title"), (self.drafts, "draft")):
            for number in kept.keys() & trees.keys():
                stored = getattr(trees[number], name)
                assert stored == kept[number] or number == self.unsure
                kept[number] = stored


def check_file(folder: Path) -> None:
    with closing(database.connect(folder / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        # Compares the index with the texts; raises if they differ.
        db.execute("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")


def test_killed_while_writing(tmp_path: Path) -> None:
    chance = random.Random(KILLS)
    promised = Promised()
    for kill in range(KILLS):
        worker = start(tmp_path, kill, "turns")
        promised.add(killed(worker, chance.randrange(2, 40), chance.uniform(0, 0.01)))
        with Library(tmp_path) as library:
            promised.check(library)
            for number in {number for number, _ in promised.partial.values()}:
                assert library.claim(number)  # nobody has it open any more
        check_file(tmp_path)
    assert len(promised.messages) > KILLS
    assert promised.partial
    assert promised.deleted


def test_a_kill_leaves_the_draft_of_the_new_conversation(tmp_path: Path) -> None:
    drafts: list[str] = []
    events: list[dict[str, Any]] = []
    for seed in range(20):
        events = killed(start(tmp_path, seed, "turns"), 40)
        if drafts := [event["text"] for event in events if event["event"] == "new draft"]:
            break
    with Library(tmp_path) as library:
        # The next one may have been saved and not told any more.
        assert library.draft(None)
        assert library.draft(None) == drafts[-1] or events[-1]["event"] != "new draft"


def old_library(folder: Path, messages: int) -> None:
    """A library of version 1, which could not search."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        with Library(folder) as library, library.transaction():
            conversation, parent = library.create(), None
            for number in range(messages):
                text = f"message {number} " + "of many words " * 40
                parent = add_message(library, conversation, parent, "user", text).id


def check_migrated(folder: Path, versions: set[int]) -> None:
    with closing(sqlite3.connect(folder / FILE)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
    assert version in versions
    # All of a migration or nothing.
    assert ({"search", "message_added", "message_changed"} & names != set()) == (version == 2)
    with Library(folder) as library:
        assert len(library.conversation(1).messages) == 1500
        assert library.search("message 1499")
    check_file(folder)


@pytest.mark.parametrize("statements", range(len(database.MIGRATIONS[-1]) + 1))
def test_killed_after_each_statement_of_a_migration(tmp_path: Path, statements: int) -> None:
    old_library(tmp_path / "old", 1500)
    killed(start(tmp_path / "old", statements, "stall"), 1)
    check_migrated(tmp_path / "old", {1})


def test_killed_while_migrating(tmp_path: Path) -> None:
    old_library(tmp_path / "old", 1500)
    chance = random.Random(KILLS)
    for kill in range(KILLS // 2):
        folder = shutil.copytree(tmp_path / "old", tmp_path / "copy")
        killed(start(folder, kill, "migrate"), 1, chance.uniform(0, 0.15))
        check_migrated(folder, {1, 2})
        shutil.rmtree(folder)


def test_killed_while_made(tmp_path: Path) -> None:
    chance = random.Random(KILLS)
    for kill in range(KILLS // 4):
        folder = tmp_path / str(kill)
        killed(start(folder, kill, "migrate"), 1, chance.uniform(0, 0.03))
        with Library(folder) as library:
            library.create()
        check_file(folder)


def test_two_processes_at_once(tmp_path: Path) -> None:
    workers = [start(tmp_path, seed, "shared", SECONDS) for seed in range(2)]
    results = [worker.communicate() for worker in workers]
    assert [errors for _, errors in results] == ["", ""]
    promised = Promised()
    for lines, _ in results:
        promised.add([json.loads(line) for line in lines.splitlines()])
    assert promised.messages
    assert not promised.partial
    with Library(tmp_path) as library:
        promised.check(library)
        stored = sum(len(library.conversation(row.id).messages) for row in library.list(10**6))
        assert stored == len(promised.messages)
    check_file(tmp_path)
