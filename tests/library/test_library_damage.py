"""Damaged files, full disks and missing permissions: a one-line error, and no data is lost."""

import random
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import schema
from qwen35_mlx.library.library import FILE, Library
from tests.library.messages import (
    add_message,
    begin_reply,
    finish_reply,
    update_reply,
    write_old_library,
)


def make_library(folder: Path, conversations: int = 20) -> Path:
    """Write a library with some conversations; its file."""
    with Library(folder) as library:
        for number in range(conversations):
            conversation = library.create()
            question = add_message(library, conversation, None, "user", f"question {number}")
            reply = begin_reply(library, conversation, question.id, "m")
            finish_reply(library, reply.id, "a long answer " * 100)
    return folder / FILE


def open_error(folder: Path) -> str:
    """The error message of opening the library."""
    with pytest.raises(Qwen35Error) as raised:
        Library(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "content", [b"not a database " * 500, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_renamed(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / FILE
    file.write_bytes(content)
    (tmp_path / f"{FILE}-wal").write_bytes(b"its log")
    message = open_error(tmp_path)
    assert str(file) in message
    assert "start again for an empty library" in message
    (aside,) = tmp_path.glob("library-damaged-*.db")
    assert aside.name in message
    assert aside.read_bytes() == content
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"its log"
    with Library(tmp_path) as library:
        assert library.count() == 0
    assert aside.read_bytes() == content


def test_damaged_files_do_not_replace_each_other(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / FILE).write_bytes(b"damaged %d " % number * 100)
        open_error(tmp_path)
    kept = {file.read_bytes()[:9] for file in tmp_path.glob("library-damaged-*.db")}
    assert kept == {b"damaged 0", b"damaged 1", b"damaged 2"}


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    content = make_library(tmp_path).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    assert "is damaged" in open_error(tmp_path)


def use_library(folder: Path) -> None:
    with Library(folder) as library:
        for row in library.list():
            library.conversation(row.id)
            library.rename(row.id, "new")
        library.search("question answer")
        library.search("q")
        conversation = library.create()
        add_message(library, conversation, None, "user", "one more")
        library.delete(conversation)


def test_flipped_bits_are_an_error_or_harmless(tmp_path: Path) -> None:
    content = make_library(tmp_path / "good", 6).read_bytes()
    rng = random.Random(1)
    errors = 0
    for number in range(150):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 10, 200])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / FILE).write_bytes(damaged)
        # Anything but a Qwen35Error fails the test.
        with suppress(Qwen35Error):
            use_library(folder)
            continue
        errors += 1
        # No data was removed.
        assert sum(file.stat().st_size for file in folder.glob("library*.db")) >= len(content)
    assert errors > 20


def test_a_library_of_a_newer_version_is_not_changed(tmp_path: Path) -> None:
    file = make_library(tmp_path)
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")
    message = open_error(tmp_path)
    assert "newer version (its format is 99, this one knows 5): update qwen35-mlx" in message
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT count(*) FROM conversations").fetchone() == (20,)


def test_the_database_of_another_program_is_not_changed(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("CREATE TABLE conversations (x)")
    assert "another program's database" in open_error(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("conversations",)]


def test_an_empty_file_becomes_a_new_library(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    use_library(tmp_path)


def test_a_migrated_library_can_be_searched(tmp_path: Path) -> None:
    write_old_library(tmp_path, 1, [f"question {number}" for number in range(20)])
    with Library(tmp_path) as library:
        assert len(library.search("question 6")) == 2  # 6 and 16
        assert len(library.conversation(1).path()) == 20
        assert not library.notices()


def test_a_failed_migration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_library(tmp_path)
    bad = ("UPDATE messages SET content = ''", "DROP TABLE drafts", "SELECT no_such_function()")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, bad))
        with pytest.raises(Qwen35Error, match="no_such_function"):
            Library(tmp_path)
    with Library(tmp_path) as library:
        assert library.conversation(1).messages[0].content == "question 0"
        assert library.draft(None) == ""


# Folders and permissions


def test_other_users_cannot_read_the_library(tmp_path: Path) -> None:
    with Library(tmp_path / "home") as library:
        add_message(library, library.create(), None, "user", "private")
        library.claim(1)
        assert stat.S_IMODE(library.folder.stat().st_mode) == 0o700
        files = [file for file in library.folder.rglob("*") if file.is_file()]
        assert {file.name for file in files} >= {FILE, f"{FILE}-wal", f"{FILE}-shm", "1"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = open_error(tmp_path / "file")
    assert "set QWEN35_HOME" in message
    assert "set QWEN35_HOME" in open_error(tmp_path / "file" / "folder")


def test_the_environment_sets_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "a" / "b"))
    with Library() as library:
        assert library.file == tmp_path / "a" / "b" / FILE
    with Library(tmp_path / "c") as library:
        assert library.file == tmp_path / "c" / FILE
    monkeypatch.setenv("QWEN35_HOME", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Library() as library:
        assert library.folder == tmp_path / "x"
    monkeypatch.setenv("QWEN35_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with Library() as library:
        assert library.folder.name == "qwen35-chat"
        assert library.folder.is_relative_to(tmp_path)


# Small disks


def test_a_full_disk_is_an_error_and_loses_nothing(small_disk: Path) -> None:
    with Library(small_disk / "home") as library:
        conversation = library.create()
        parent = add_message(library, conversation, None, "user", "first").id
        written = 1
        with suppress(Qwen35Error):
            while written < 10_000:
                parent = add_message(library, conversation, parent, "user", f"{written} " * 500).id
                written += 1
        assert written < 10_000
        assert len(library.conversation(conversation).messages) == written
        for change in (
            lambda: finish_reply(library, parent, "x" * 100_000),
            lambda: update_reply(library, parent, "x" * 100_000),
            lambda: library.save_draft(None, "x" * 1_000_000),
            lambda: library.add_conversation(library.conversation(conversation)),
        ):
            with pytest.raises(Qwen35Error, match="disk is full"):
                change()
        assert len(library.conversation(conversation).messages) == written
        assert library.count() == 1
        assert library.draft(None) == ""
    # Reading needs no space.
    with Library(small_disk / "home") as library:
        assert len(library.conversation(conversation).messages) == written
        assert library.search("first")


def test_a_library_is_not_created_on_a_full_disk(small_disk: Path) -> None:
    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 4096)
    message = open_error(small_disk / "home")
    assert "full" in message or "No space" in message
    (small_disk / "ballast").unlink()
    use_library(small_disk / "home")
