"""Backups are whole at any moment, and a copy of the database alone has all that came before."""

import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import database
from qwen35_mlx.library.backup import back_up
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.verifying import damages, rebuild_search
from tests.library.messages import add_message, begin_reply, finish_reply


def restored(backup: Path, folder: Path) -> Library:
    """The library of a backup, put back as the documentation says."""
    folder.mkdir()
    shutil.copy(backup, folder / FILE)
    return Library(folder)


def say(library: Library, conversation: int, words: str) -> None:
    asked = add_message(library, conversation, None, "user", words)
    finish_reply(library, begin_reply(library, conversation, asked.id, "m").id, f"{words}!")


def test_a_backup_of_an_open_library_is_whole(tmp_path: Path) -> None:
    settings = ChatSettings(system="Be brief.", seed=2**64 - 1)
    with Library(tmp_path / "home") as library, Library(tmp_path / "home") as other:
        at = library.create(title="今天", settings=settings)
        say(other, at, "Grüße")
        library.save_draft(at, "not sent")
        assert back_up(library, tmp_path / "copy.db") == 1
        assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "home"]
        assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
        with restored(tmp_path / "copy.db", tmp_path / "new") as copy:
            assert copy.conversation(at) == library.conversation(at)
            assert copy.draft(at) == "not sent"
            assert [hit.where for hit in copy.search("grüsse")] == ["content", "content"]
            assert not copy.notices()
            assert not damages(copy)
            assert not rebuild_search(copy)
            say(copy, at, "further")


def test_a_backup_while_others_write_is_of_one_moment(tmp_path: Path) -> None:
    """Each transaction writes one number to two conversations: no backup has them apart."""
    ends = threading.Event()

    def write() -> None:
        with Library(tmp_path / "home") as library:
            number = 0
            while not ends.is_set():
                number += 1
                with library.transaction():
                    for at in (1, 2):
                        add_message(library, at, None, "user", f"{number} " + "x" * 5_000)

    with Library(tmp_path / "home") as library:
        library.create()
        library.create()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                file = tmp_path / f"{number}.db"
                back_up(library, file)
                with restored(file, tmp_path / f"new{number}") as copy:
                    one, two = (copy.conversation(at).messages for at in (1, 2))
                    assert [m.content for m in one] == [m.content for m in two]
                    assert not damages(copy)
        finally:
            ends.set()
            writer.join()


def test_a_backup_has_nothing_of_what_was_deleted(tmp_path: Path) -> None:
    with Library(tmp_path / "home") as library:
        kept, deleted = library.create(title="kept"), library.create(title="Rumpelstilz")
        say(library, kept, "words")
        say(library, deleted, "Rumpelstilzchen " * 500)
        library.delete(deleted)
        assert back_up(library, tmp_path / "copy.db") == 1
        assert b"umpelst" not in (tmp_path / "copy.db").read_bytes()
        library.undelete(deleted)
        assert library.count() == 2


def test_a_backup_of_a_library_that_cannot_be_written(tmp_path: Path) -> None:
    with Library(tmp_path / "home") as library:
        say(library, library.create(), "words")
    (tmp_path / "home" / FILE).chmod(0o400)
    with Library(tmp_path / "home") as library:
        assert back_up(library, tmp_path / "copy.db") == 1


@pytest.mark.parametrize("name", ["there.db", "home", "none/copy.db", "home/library.db", "link"])
def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "there.db").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "there.db")
    with Library(tmp_path / "home") as library:
        say(library, library.create(), "words")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(Qwen35Error, match=r"exists: give another name|cannot be written"):
            back_up(library, tmp_path / name)
        assert sorted(tmp_path.rglob("*")) == before
        assert library.count() == 1
    assert (tmp_path / "there.db").read_text() == "mine"


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with Library(tmp_path / "home") as library:
        say(library, library.create(), "words")
        with closing(sqlite3.connect(tmp_path / "home" / FILE)) as db:
            root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'")
            page, size = root.fetchone()[0], db.execute("PRAGMA page_size").fetchone()[0]
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with (tmp_path / "home" / FILE).open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        with pytest.raises(Qwen35Error, match="damaged"):
            back_up(library, tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


# The database without its log


def copied_alone(folder: Path) -> list[tuple[str, int]]:
    """Title and number of messages of each conversation in a copy of the database alone."""
    with TemporaryDirectory() as to:
        shutil.copy(folder / FILE, to)
        with Library(to) as library:
            return [(row.title, row.messages) for row in library.list()]


def wait_for(folder: Path, listed: list[tuple[str, int]]) -> None:
    """Wait until a copy of the database alone lists these conversations."""
    ends = time.monotonic() + 20
    while (found := copied_alone(folder)) != listed:
        assert time.monotonic() < ends, found
        time.sleep(0.05)


CHANGES: dict[str, tuple[Callable[[Library, int], object], list[tuple[str, int]]]] = {
    "a message": (lambda lib, at: add_message(lib, at, None, "user", "?"), [("one", 3)]),
    "a turn": (lambda lib, at: say(lib, at, "?"), [("one", 4)]),
    "a title": (lambda lib, at: lib.rename(at, "other"), [("other", 2)]),
    "a new one": (lambda lib, _: lib.create(title="two"), [("two", 0), ("one", 2)]),
    "a deletion": (lambda lib, at: lib.delete(at), []),
    "an import": (
        lambda lib, _: lib.add_conversation(
            Conversation(0, "in", (Message(1, None, "user", "?"),), updated=1.0)
        ),
        [("one", 2), ("in", 1)],
    ),
}


@pytest.mark.parametrize(("change", "listed"), CHANGES.values(), ids=CHANGES)
def test_the_database_alone_has_each_change(tmp_path: Path, change, listed) -> None:
    with Library(tmp_path / "home") as library:
        at = library.create(title="one")
        say(library, at, "words")
        change(library, at)
        wait_for(tmp_path / "home", listed)


def test_a_window_that_reads_only_delays_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_PAUSE", 0.1)
    monkeypatch.setattr(database, "CHECKPOINT_ATTEMPTS", 2)
    with Library(tmp_path / "home") as library, Library(tmp_path / "home") as other:
        at = library.create(title="one")
        wait_for(tmp_path / "home", [("one", 0)])
        with other.reading() as db:
            db.execute("SELECT count(*) FROM messages").fetchone()
            say(library, at, "words")
            time.sleep(0.5)
            assert copied_alone(tmp_path / "home") == [("one", 0)]
        wait_for(tmp_path / "home", [("one", 2)])
