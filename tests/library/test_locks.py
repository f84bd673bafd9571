"""Lock files: exclusion between processes, windows and threads, and release on a kill."""

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

HOLD_LOCK = """
import sys, time
from pathlib import Path
from qwen35_mlx.library.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print(lock is not None, flush=True)
time.sleep(600)
"""


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(file)], stdout=subprocess.PIPE, text=True
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
    lock.release()  # a second call does nothing
    assert list(tmp_path.iterdir()) == []


def test_a_lock_excludes_its_own_process(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock
    assert try_lock(tmp_path / "lock") is None
    lock.release()
    assert try_lock(tmp_path / "lock")


def test_a_lock_on_a_removed_file_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder removes the file after it was opened here and before it is locked."""
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


def test_only_one_thread_holds_a_lock(tmp_path: Path) -> None:
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


def test_waiting_for_a_lock_times_out(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", 0),
        pytest.raises(Qwen35Error, match="by another window"),
        locked(tmp_path / "lock", 0.02),
    ):
        pass
    with locked(tmp_path / "lock", 0):
        pass


def test_a_named_lock_is_held_until_its_last_reason_is_removed(tmp_path: Path) -> None:
    window, other = NamedLocks(tmp_path / "open"), NamedLocks(tmp_path / "open")
    assert window.acquire("1", "a")
    assert window.acquire("1", "b")
    assert window.acquire("1", "b")
    window.release("1", "b")
    window.release("2", "b")
    assert not other.acquire("1", "a")
    assert window.names("a") == {"1"}
    assert window.names("b") == set()
    window.release("1", "a")
    assert other.acquire("1", "a")
    other.close()
    assert other.names("a") == set()
    assert window.acquire("1", "a")


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match="cannot be locked"):
        NamedLocks(tmp_path / "file" / "open").acquire("1", "a")
    with pytest.raises(Qwen35Error, match="cannot be locked"):
        try_lock(tmp_path / "no" / "lock")


COUNT_MESSAGES = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("SELECT count(*) FROM messages").fetchone()[0])
db.close()
"""


def test_a_second_window_keeps_the_sqlite_locks_of_the_first(tmp_path: Path) -> None:
    """Opening and closing the file by hand would release all POSIX locks of this process on it.

    Another process would then find no other connection, and remove the log that the first window
    still uses.
    """

    def count_messages() -> str:
        command = [sys.executable, "-c", COUNT_MESSAGES, str(tmp_path / FILE)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with Library(tmp_path) as first:
        conversation = first.create()
        Library(tmp_path).close()
        assert count_messages() == "0"
        add_message(first, conversation, None, "user", "after that")
        assert count_messages() == "1"
    with Library(tmp_path) as again:
        assert len(again.conversation(conversation).messages) == 1
