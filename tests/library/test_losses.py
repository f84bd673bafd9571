"""A missing log, an older copy, a removed folder, a full or read-only disk: said in one line."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import opening, unsaved
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.ledger import SIZE, Progress, read_ledger
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.rows import DAMAGED
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.session import __main__ as session_command
from tests.library.messages import (
    add_message,
    begin_reply,
    finish_reply,
    write_old_library,
)


def write_and_die(folder: Path, code: str) -> None:
    """Run code with a library in a process that ends without closing it."""
    start = (
        "import os, sys; from tests.library.messages import *;"
        "library = Library(sys.argv[1]); conversation = library.create();"
    )
    command = [sys.executable, "-c", f"{start} {code}; os._exit(0)", str(folder)]
    subprocess.run(command, check=True)


TWO_MESSAGES = (
    "question = add_message(library, conversation, None, 'user', 'one').id;"
    " add_message(library, conversation, question, 'user', 'two')"
)


def contents(library: Library) -> list[str]:
    return [message.content for message in library.conversation(1).messages]


# The ledger


def test_a_removed_log_is_noticed(tmp_path: Path) -> None:
    write_and_die(tmp_path, TWO_MESSAGES)
    (tmp_path / f"{FILE}-wal").unlink()
    with pytest.raises(Qwen35Error, match=r"lacks messages 1 to 2, which were stored.*kept as"):
        Library(tmp_path)
    assert len(list(tmp_path.glob("library-damaged-*.db"))) == 1
    with Library(tmp_path) as library:
        assert library.count() == 0
        add_message(library, library.create(), None, "user", "new")
    Library(tmp_path).close()


def test_a_damaged_log_is_kept_before_it_is_emptied(tmp_path: Path) -> None:
    write_and_die(tmp_path, TWO_MESSAGES)
    log = tmp_path / f"{FILE}-wal"
    data = bytearray(log.read_bytes())
    data[-3000] ^= 1  # in the last transaction
    log.write_bytes(data)
    with pytest.raises(Qwen35Error, match="lacks message 2, which was stored"):
        Library(tmp_path)
    (kept,) = tmp_path.glob("library-damaged-*.db-wal")
    assert kept.read_bytes() == data
    with Library(tmp_path) as library:
        assert contents(library) == ["one"]


def test_an_older_copy_is_noticed(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        conversation = library.create()
        question = add_message(library, conversation, None, "user", "one").id
    copy = shutil.copy(tmp_path / FILE, tmp_path / "copy")
    with Library(tmp_path) as library:
        reply = begin_reply(library, conversation, question, "m")
        finish_reply(library, reply.id, "answer")
    shutil.copy(copy, tmp_path / FILE)
    with pytest.raises(Qwen35Error, match="lacks message 2"):
        Library(tmp_path)
    with Library(tmp_path) as library:
        assert contents(library) == ["one"]


def test_another_library_in_its_place_is_used(tmp_path: Path) -> None:
    with Library(tmp_path / "one") as library:
        for _ in range(5):
            library.create()
    with Library(tmp_path / "two") as library:
        library.create(title="other")
    shutil.copy(tmp_path / "two" / FILE, tmp_path / "one" / FILE)
    with Library(tmp_path / "one") as library:
        assert [row.title for row in library.list()] == ["other"]


@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_database_is_noticed(tmp_path: Path, empty: bool) -> None:
    with Library(tmp_path) as library:
        add_message(library, library.create(), None, "user", "one")
    (tmp_path / FILE).unlink()
    if empty:
        (tmp_path / FILE).touch()
    with pytest.raises(Qwen35Error, match="is empty" if empty else "is gone"):
        Library(tmp_path)
    with Library(tmp_path) as library:
        assert library.count() == 0


def test_a_lost_end_of_a_partial_reply_is_a_notice(tmp_path: Path) -> None:
    """As after a power failure, which may undo what did not wait for the disk."""
    code = (
        "reply = begin_reply(library, conversation, None, 'm').id; library.empty_log();"
        " update_reply(library, reply, 'half a reply')"
    )
    write_and_die(tmp_path, code)
    (tmp_path / f"{FILE}-wal").unlink()
    with Library(tmp_path) as library:
        assert contents(library) == [""]
        (line,) = library.notices()
    assert "the last moments before" in line
    with Library(tmp_path) as library:
        add_message(library, 1, 1, "user", "more")
        assert not library.notices()


def test_a_ledger_that_lags_or_is_damaged_is_no_alarm(tmp_path: Path) -> None:
    ledger = tmp_path / "library.check"
    with Library(tmp_path) as library:
        library.create()
        behind = ledger.read_bytes()
        library.create()
    for content in (behind, b"", b"x" * SIZE, bytes(range(128)), behind[:-20]):
        ledger.write_bytes(content)
        with Library(tmp_path) as library:
            assert not library.notices()
            library.create()
        assert isinstance(read_ledger(ledger), Progress)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7])
def test_a_finished_reply_does_not_depend_on_the_log(tmp_path: Path, share: float) -> None:
    """Nor on how much of it is damaged: a part of an old log must not cover newer pages."""
    code = (
        "reply = begin_reply(library, conversation, None, 'm');"
        " [update_reply(library, reply.id, 'so far ' * number) for number in range(100)];"
        " finish_reply(library, reply.id, 'answer');"
        " [thread.join() for thread in [library._checkpointer] if thread]"
    )
    write_and_die(tmp_path, code)
    log = tmp_path / f"{FILE}-wal"
    data = log.read_bytes()
    assert len(data) > 100_000
    lost = int(share * len(data))
    damaged = bytes(byte ^ 255 for byte in data[lost : lost + 100])
    log.write_bytes(data[:lost] + damaged + data[lost + 100 :])
    with Library(tmp_path) as library:
        assert contents(library) == ["answer"]
        assert not library.notices()
    assert session_command.verify(tmp_path, delete=False) == 0


# Checksums


def change(folder: Path, statement: str) -> None:
    """Change the database behind the library's back."""
    with closing(sqlite3.connect(folder / FILE)) as db, db:
        db.create_function("row_checksum", -1, lambda *_: 0)
        db.create_function("folded", 1, lambda _: "")
        db.execute(statement)


@pytest.mark.parametrize(
    "damage",
    [
        "content = 'onf'",
        "content = CAST(x'6f6eff' AS TEXT)",
        "thinking = 'x'",
        "tool_calls = '[1'",
        "tool_calls = '[1]'",
        "role = 'tool'",
        "state = 'partial'",
        "created = 4",
        "reply_tokens = 1",
        "error = 'x'",
    ],
)
def test_a_changed_message_is_marked_and_the_others_can_be_read(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Library(tmp_path) as library:
        conversation = library.create()
        question = add_message(library, conversation, None, "user", "one").id
        add_message(library, conversation, question, "user", "two")
    change(tmp_path, f"UPDATE messages SET {damage} WHERE id = 1")
    with Library(tmp_path) as library:
        one, two = library.conversation(conversation).path()
        assert (one.error, one.state) == (DAMAGED, "failed")
        assert (two.content, two.error) == ("two", "")
        assert library.message(1) == one
        (line,) = library.notices()
        assert "conversation 1 is damaged on disk, and the text of message 1 may" in line
        finish_reply(library, 1, "new text")  # a later change does not hide the damage
        assert library.message(1).error == DAMAGED
    assert session_command.verify(tmp_path, delete=False) == 1
    assert "message 1 differs from its checksum" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        "title = 'x'",
        "title = CAST(x'ff' AS TEXT)",
        'settings = \'{"system": "x"}\'',
        "settings = '[]'",
        "settings = '{'",
        "leaf = NULL",
        "deleted = 5",
        "draft = 'x'",
    ],
)
def test_a_changed_conversation_is_reported(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Library(tmp_path) as library:
        conversation = library.create(title="T")
        add_message(library, conversation, None, "user", "one")
    change(tmp_path, f"UPDATE conversations SET {damage}")
    with Library(tmp_path) as library:
        library.list()
        lines = library.notices()
        assert any("conversation 1 is damaged on disk" in line for line in lines)
        if "deleted" not in damage:
            assert contents(library) == ["one"]
            library.delete(conversation)  # it can be deleted
    assert "deleted" not in damage or session_command.verify(tmp_path, delete=False) == 1


def test_a_message_in_no_place_is_still_read(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        conversation, parent = library.create(), None
        for text in ("one", "two", "three"):
            parent = add_message(library, conversation, parent, "user", text).id
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("DELETE FROM messages WHERE id = 2")
    with Library(tmp_path) as library:
        assert contents(library) == ["one", "three"]
        assert library.notices()
    assert session_command.verify(tmp_path, delete=False) == 1


def test_checksums_of_an_old_library_are_filled_in(tmp_path: Path) -> None:
    write_old_library(tmp_path, 2, ["one", "two"])
    with Library(tmp_path) as library:
        assert contents(library) == ["one", "two"]
        assert not library.notices()
    assert session_command.verify(tmp_path, delete=False) == 0


# The folder


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace_file(folder: Path) -> None:
    shutil.copy(folder / FILE, folder / "copy")
    (folder / "copy").rename(folder / FILE)


def replace_folder(folder: Path) -> None:
    move(folder)
    Library(folder).close()


@pytest.mark.parametrize("change_folder", [remove, move, replace_file, replace_folder])
def test_a_folder_that_goes_while_open_is_said_at_the_next_turn(
    tmp_path: Path, change_folder: Callable[[Path], None]
) -> None:
    folder = tmp_path / "home"
    library = Library(folder)
    conversation = library.create()
    question = add_message(library, conversation, None, "user", "one").id
    change_folder(folder)
    there = sorted(folder.iterdir()) if folder.exists() else None
    for call in (
        lambda: add_message(library, conversation, question, "user", "two"),
        lambda: finish_reply(library, question, "x"),
        lambda: library.save_draft(None, "x"),
        library.list,
    ):
        with pytest.raises(Qwen35Error, match="removed, moved or replaced while it was open"):
            call()
    library.close()
    assert (sorted(folder.iterdir()) if folder.exists() else None) == there


# A disk that cannot be written


@pytest.fixture
def read_only(small_disk: Path) -> Callable[[], None]:
    def remount() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    return remount


def use_read_only(folder: Path) -> None:
    with Library(folder) as library:
        assert library.read_only
        assert [row.title for row in library.list()] == ["one"]
        assert library.search("one")
        assert contents(library)[0] == "one"
        assert library.resolve("one") == 1
        assert library.draft(None) == ""
        assert not library.deleted()
        assert not library.claim(1)
        (line,) = library.notices()
        assert "cannot be written: conversations can be read, not changed" in line
        with pytest.raises(Qwen35Error, match="cannot be written, so nothing is changed"):
            add_message(library, 1, None, "user", "x")
    assert session_command.main(["--folder", str(folder), "verify"]) == 0
    assert session_command.main(["--folder", str(folder), "info"]) == 0


def test_a_read_only_disk_can_be_read(small_disk: Path, read_only: Callable[[], None]) -> None:
    folder = small_disk / "home"
    with Library(folder) as library:
        add_message(library, library.create(), None, "user", "one")
    read_only()
    use_read_only(folder)
    with pytest.raises(Qwen35Error, match="Read-only"):
        Library(small_disk / "other")


def test_a_read_only_disk_with_a_log(small_disk: Path, read_only: Callable[[], None]) -> None:
    write_and_die(small_disk / "home", TWO_MESSAGES)
    shutil.copytree(small_disk / "home", small_disk / "without")
    (small_disk / "without" / f"{FILE}-shm").unlink()
    read_only()
    use_read_only(small_disk / "home")
    with pytest.raises(Qwen35Error, match="its log may hold messages: copy its folder elsewhere"):
        Library(small_disk / "without")


def test_a_read_only_disk_with_an_old_library(
    small_disk: Path, read_only: Callable[[], None]
) -> None:
    write_old_library(small_disk / "home", 2, ["one"])
    read_only()
    with pytest.raises(Qwen35Error, match="earlier version and cannot be written: copy"):
        Library(small_disk / "home")


# Messages that could not be stored


def test_a_reply_that_met_a_full_disk_is_stored_later(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsaved, "RETRY_SECONDS", 0.01)
    with Library(small_disk / "home") as library:
        conversation = library.create()
        reply = begin_reply(library, conversation, None, "m")
        ballast = small_disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"x" * 4096)
        transcript = Transcript(library, conversation, ChatSettings())
        whole = replace(reply, content="a long reply " * 50_000, state="complete")
        with pytest.raises(Qwen35Error, match="disk is full"):
            transcript.save(whole)
        time.sleep(0.1)
        assert library.message(reply.id).state == "partial"
        assert not library.notices()
        ballast.write_bytes(b"")
        until = time.monotonic() + 5
        while library.message(reply.id).state == "partial" and time.monotonic() < until:
            time.sleep(0.01)
        assert library.message(reply.id).content == whole.content
        time.sleep(0.05)
        assert library.notices() == ["the reply that could not be saved is saved now"]


def test_closing_tries_a_last_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path)
    reply = begin_reply(library, library.create(), None, "m")
    library.save_later(replace(reply, content="whole", state="complete"))
    library.close()
    with Library(tmp_path) as other:
        assert contents(other) == ["whole"]
    library = Library(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise Qwen35Error("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(library, "save", full)
        library.save_later(replace(reply, content="more"))
        with pytest.raises(Qwen35Error, match=r"message 1\) could not be stored and is lost: the"):
            library.close()
    with Library(tmp_path) as other:
        assert contents(other) == ["whole"]
        assert other.claim(1)  # everything else was closed


def test_a_deleted_message_is_not_stored_later(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        reply = begin_reply(library, library.create(), None, "m")
        library.save_later(replace(reply, id=99, content="x"))


def test_a_full_disk_leaves_a_library_that_can_be_read(tmp_path: Path, monkeypatch) -> None:
    with Library(tmp_path) as library:
        number = library.create(title="Tea")

    def full(file: Path, real: Path) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise Qwen35Error("is the disk full?") from error

    monkeypatch.setattr(opening, "_open_for_writing", full)
    with Library(tmp_path) as library:
        assert library.read_only
        assert library.conversation(number).title == "Tea"
        assert "can be read, not changed" in library.notices()[0]
    (tmp_path / "library.db").unlink()
    with pytest.raises(Qwen35Error, match="is the disk full"):
        Library(tmp_path)
