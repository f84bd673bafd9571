"""Locks that die with their holder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.locks import NamedLocks, locked, try_lock
from tests.library.messages import add_message

HOLD = """
import sys, time
from pathlib import Path
from qwen35_mlx.library.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print(lock is not None, flush=True)
time.sleep(600)
"""


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "True\n"
    assert try_lock(file) is None
    process.kill()
    process.communicate()
    assert file.exists()
    lock = try_lock(file)
    assert lock
    lock.release()
    lock.release()  # twice does no harm
    assert list(tmp_path.iterdir()) == []


def test_one_process_excludes_itself(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock
    assert try_lock(tmp_path / "lock") is None
    lock.release()
    assert try_lock(tmp_path / "lock")


def test_a_lock_on_a_removed_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes the file after we have opened it, and before we lock it."""
    file = tmp_path / "lock"
    first = try_lock(file)
    assert first
    opened: list[int] = []
    real = os.open

    def slow_open(*args: object) -> int:
        opened.append(real(*args))  # pyright: ignore[reportArgumentType, reportCallIssue]
        if len(opened) == 1:
            first.release()
        return opened[-1]

    monkeypatch.setattr(os, "open", slow_open)
    second = try_lock(file)
    assert second
    assert len(opened) == 2
    assert try_lock(file) is None


def test_only_one_of_many_threads_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            if lock := try_lock(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                inside -= 1
                lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", 0),
        pytest.raises(Qwen35Error, match="by another window"),
        locked(tmp_path / "lock", 0.02),
    ):
        pass
    with locked(tmp_path / "lock", 0):
        pass


def test_a_claim_lasts_as_long_as_one_reason_does(tmp_path: Path) -> None:
    mine, other = NamedLocks(tmp_path / "open"), NamedLocks(tmp_path / "open")
    assert mine.acquire("1", "a")
    assert mine.acquire("1", "b")
    assert mine.acquire("1", "b")
    mine.release("1", "b")
    mine.release("2", "b")
    assert not other.acquire("1", "a")
    assert mine.names("a") == {"1"}
    assert mine.names("b") == set()
    mine.release("1", "a")
    assert other.acquire("1", "a")
    other.close()
    assert other.names("a") == set()
    assert mine.acquire("1", "a")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match="cannot be locked"):
        NamedLocks(tmp_path / "file" / "open").acquire("1", "a")
    with pytest.raises(Qwen35Error, match="cannot be locked"):
        try_lock(tmp_path / "no" / "lock")


COUNTED = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("SELECT count(*) FROM messages").fetchone()[0])
db.close()
"""


def test_a_second_window_in_this_process_leaves_the_first_ones_locks_alone(tmp_path: Path) -> None:
    """Were the file opened and closed for it, all locks of this process on it would be gone.

    Another process then takes itself for the last, and removes the log from under the first.
    """

    def counted() -> str:
        command = [sys.executable, "-c", COUNTED, str(tmp_path / FILE)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with Library(tmp_path) as first:
        conversation = first.create()
        Library(tmp_path).close()
        assert counted() == "0"
        add_message(first, conversation, None, "user", "after that")
        assert counted() == "1"
    with Library(tmp_path) as again:
        assert len(again.conversation(conversation).messages) == 1
