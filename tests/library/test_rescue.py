"""What a damaged database still holds is added to a library, marked where it is damaged."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import schema
from qwen35_mlx.library.checksums import update
from qwen35_mlx.library.connections import connect
from qwen35_mlx.library.conversation import ChatSettings, Conversation
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.page_records import PAGE_SIZE
from qwen35_mlx.library.remains import DAMAGED_TITLE
from qwen35_mlx.library.rescue import rescue
from qwen35_mlx.library.rows import DAMAGED
from tests.library.damaged import all_of, rescued, same, write_library
from tests.library.messages import add_message, write_old_library

STORED = Path(__file__).parents[1] / "stored"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("written"))


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


def test_a_whole_library_is_equal(written: Path, tmp_path: Path) -> None:
    result, found = rescued(written / FILE, tmp_path)
    there = all_of(written).values()
    assert len(found) == result.total == len(result.added) == 37
    assert not result.gaps
    assert result.checked
    assert all(map(same, found, there))


def test_a_second_time_adds_nothing(written: Path, tmp_path: Path) -> None:
    data = bytearray((written / FILE).read_bytes())
    for page in range(3, len(data) // PAGE_SIZE, 4):
        data[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)
    (tmp_path / "damaged.db").write_bytes(data)
    first, there = rescued(tmp_path / "damaged.db", tmp_path / "new")
    again, found = rescued(tmp_path / "damaged.db", tmp_path / "new")
    assert first.gaps
    assert found == there
    assert not again.added
    assert again.present == len(first.added)
    assert again.gaps == first.gaps


def test_texts_of_any_length_are_whole(tmp_path: Path) -> None:
    """How much of a row is in its page, and how much in others, depends on its length."""
    texts = ["x" * length for length in (*range(3900, 4200, 7), *range(4200, 12_500, 111))]
    with Library(tmp_path / "old") as library:
        at = library.create(title="T")
        for text in texts:
            add_message(library, at, None, "user", text)
    result, (found,) = rescued(tmp_path / "old" / FILE, tmp_path / "new")
    assert contents(found) == texts
    assert not result.gaps


@pytest.mark.parametrize("version", ["0.1.0", "0.1.0-guide"])
def test_a_file_of_an_earlier_version(version: str, tmp_path: Path) -> None:
    result, found = rescued(STORED / version / FILE, tmp_path)
    assert len(found) == 4
    assert not result.gaps
    for conversation in found:
        exported = (STORED / version / f"{conversation.id}.json").read_text(encoding="utf-8")
        assert to_json(conversation) == exported


@pytest.mark.parametrize("version", range(1, len(schema.MIGRATIONS) + 1))
def test_every_version_of_the_format_is_recognised(version: int, tmp_path: Path) -> None:
    file = tmp_path / "old" / FILE
    write_old_library(file.parent, min(version, 2), ["one", "two " * 5000, "three"])
    with closing(connect(file)) as db:
        for statement in (part for parts in schema.MIGRATIONS[2:version] for part in parts):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {version}")
    result, (found,) = rescued(file, tmp_path / "new")
    assert contents(found) == ["one", "two " * 5000, "three"]
    assert found.title == "old"
    assert len(found.path()) == 3
    assert not result.gaps
    assert result.checked == (version > 2)


# Lost rows


def edited(file: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change a database behind the library's back, without its constraints and triggers."""
    with closing(connect(file)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        change(db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.fixture
def branched(tmp_path: Path) -> Path:
    """A question, two replies to it, and a second question after each; its file."""
    with Library(tmp_path / "old") as library:
        at = library.create(title="T", settings=ChatSettings(system="S"))
        root = add_message(library, at, None, "user", "one").id
        parent = root
        for reply in "ab":
            parent = add_message(library, at, root, "assistant", reply).id
            asked = add_message(library, at, parent, "user", f"{reply} two").id
            add_message(library, at, asked, "assistant", f"{reply} three")
        add_message(library, at, parent, "user", "b two, again")
    return tmp_path / "old" / FILE


def tree(conversation: Conversation) -> dict[str, str]:
    """The text of each message to that of its parent."""
    texts = {message.id: message.content for message in conversation.messages}
    return {texts[m.id]: texts.get(m.parent or 0, "") for m in conversation.messages}


def test_what_follows_a_lost_message_goes_by_the_index(branched: Path, tmp_path: Path) -> None:
    """The row of the second reply is gone; the index still says that it followed the question."""
    edited(branched, lambda db: db.execute("UPDATE messages SET content = 'LOST' WHERE id = 5"))
    data = bytearray(branched.read_bytes())
    at = data.index(b"assistantLOST")
    header = data.rindex(bytes([21, 0, 9]), 0, at)  # of 20 columns: the id, conversation 1
    data[header : header + 3] = b"\0\0\0"
    branched.write_bytes(data)
    result, (found,) = rescued(branched, tmp_path / "new")
    assert tree(found) == {
        "one": "",
        "a": "one",
        "a two": "a",
        "a three": "a two",
        "b two": "one",
        "b three": "b two",
        "b two, again": "one",
    }
    assert result.gaps == [1]


def test_what_follows_a_lost_message_stays_in_order(branched: Path, tmp_path: Path) -> None:
    """The row is gone from the index, too: the versions of a question stay versions."""
    edited(branched, lambda db: db.execute("DELETE FROM messages WHERE id = 5"))
    result, (found,) = rescued(branched, tmp_path / "new")
    assert tree(found) == {
        "one": "",
        "a": "one",
        "a two": "a",
        "a three": "a two",
        "b two": "a three",
        "b three": "b two",
        "b two, again": "a three",
    }
    assert result.gaps == [1]
    with Library(branched.parent) as library:  # reads it in the same way
        assert tree(library.conversation(1)) == tree(found)


def test_a_conversation_without_its_row(branched: Path, tmp_path: Path) -> None:
    edited(branched, lambda db: db.execute("DELETE FROM conversations"))
    result, (found,) = rescued(branched, tmp_path / "new")
    assert found.title == "one"
    assert found.settings == ChatSettings()
    assert (len(found.messages), found.leaf) == (8, found.messages[-1].id)
    assert result.gaps == [1]


def test_a_damaged_row_of_a_conversation_says_so(branched: Path, tmp_path: Path) -> None:
    change = "UPDATE conversations SET title = 'U', draft = 'x', checksum = 1"
    edited(branched, lambda db: db.execute(change))
    result, (found,) = rescued(branched, tmp_path / "new")
    assert found.title == f"U {DAMAGED_TITLE}"
    assert found.draft == f"[{DAMAGED}]\n\nx"
    assert found.settings == ChatSettings()
    assert len(found.path()) == 3
    assert result.gaps == [1]


def test_a_lost_conversation_is_counted(tmp_path: Path) -> None:
    with Library(tmp_path / "old") as library:
        for text in ("kept", "lost"):
            for _ in range(30):
                at = library.create(title=text)
                add_message(library, at, None, "user", f"{text} " * 100)
    file = tmp_path / "old" / FILE
    data = bytearray(file.read_bytes())
    for page in range(0, len(data), PAGE_SIZE):
        if data[page] == 13 and b"lost" in data[page : page + PAGE_SIZE]:
            data[page : page + PAGE_SIZE] = bytes(PAGE_SIZE)
    file.write_bytes(data)
    result, found = rescued(file, tmp_path / "new")
    assert len(found) < 60 == result.total
    assert {one.title for one in found if one.id not in result.gaps} <= {"kept"}


# The trash


@pytest.mark.parametrize("row", ["there", "lost"])
def test_the_trash_stays_the_trash(tmp_path: Path, row: str) -> None:
    with Library(tmp_path / "old") as library:
        for title in ("kept", "deleted"):
            add_message(library, library.create(title=title), None, "user", title)
        library.delete(2)
        shutil.copytree(tmp_path / "old", tmp_path / "copy")
    file = tmp_path / "copy" / FILE
    if row == "lost":
        edited(file, lambda db: db.execute("DELETE FROM conversations WHERE id = 2"))
    with Library(tmp_path / "new") as library:
        for _ in range(2):
            result = rescue(library, file)
            assert (result.total, result.gaps) == (1, [])
            assert [summary.id for summary in library.deleted()] == [2]
        library.undelete(2)
        assert contents(library.conversation(2)) == ["deleted"]


def test_what_was_deleted_long_ago_is_left_out(tmp_path: Path) -> None:
    with Library(tmp_path / "old") as library:
        add_message(library, library.create(title="kept"), None, "user", "kept")
        add_message(library, library.create(title="deleted"), None, "user", "deleted")
        with library.transaction() as db:
            update(db, "conversations", 2, {"deleted": 1.7e9})
        shutil.copytree(tmp_path / "old", tmp_path / "copy")
    with Library(tmp_path / "new") as library:
        assert rescue(library, tmp_path / "copy" / FILE).total == 1
        assert not library.deleted()


def test_free_pages_are_left_out(tmp_path: Path) -> None:
    """Without secure_delete, as other programs delete, they still hold what was deleted."""
    with Library(tmp_path / "old") as library:
        for title in ("kept", "deleted"):
            at = library.create(title=title)
            for _ in range(20):
                add_message(library, at, None, "user", f"{title.upper()} " * 40)

    def delete(db: sqlite3.Connection) -> None:
        table = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'messages'").fetchone()[0]
        db.execute("PRAGMA secure_delete = OFF")
        db.execute(table.replace("TABLE messages", "TABLE other"))
        db.execute("INSERT INTO other SELECT * FROM messages WHERE conversation = 2")
        db.execute("DROP TABLE other")
        db.execute("DELETE FROM messages WHERE conversation = 2")
        db.execute("DELETE FROM conversations WHERE id = 2")

    file = tmp_path / "old" / FILE
    edited(file, delete)
    assert file.read_bytes().count(b"DELETED DELETED") > 400
    with Library(tmp_path / "new") as library:
        assert rescue(library, file).total == 1
        assert len(library.conversation(1).messages) == 20
        assert not library.deleted()


# The log


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A copy of an open library with five conversations: the last three are only in its log."""
    with Library(tmp_path / "old") as library:
        for number in range(5):
            if number == 2:
                library.empty_log()
                library._checkpoint_later = lambda: None
            at = library.create(title=f"{number}")
            add_message(library, at, None, "user", f"text {number} " * 1000)
        (tmp_path / "copy").mkdir()
        for name in (FILE, f"{FILE}-wal"):
            shutil.copy(tmp_path / "old" / name, tmp_path / "copy")
    return tmp_path / "copy" / FILE


def titles(found: list[Conversation]) -> list[str]:
    return [one.title for one in found]


def test_the_log_is_read(logged: Path, tmp_path: Path) -> None:
    result, found = rescued(logged, tmp_path / "new")
    assert titles(found) == ["0", "1", "2", "3", "4"]
    assert contents(found[4]) == ["text 4 " * 1000]
    assert not result.gaps
    assert rescued(logged.with_name(f"{FILE}-wal"), tmp_path / "new")[0].present == 5


def test_a_log_without_its_database(logged: Path, tmp_path: Path) -> None:
    logged.unlink()
    _, found = rescued(logged.with_name(f"{FILE}-wal"), tmp_path / "new")
    assert {"2", "3", "4"} <= set(titles(found))


@pytest.mark.parametrize("at", [16, 40, 5000, 12_000, 30_000])
def test_behind_a_damaged_frame_the_log_goes_on(logged: Path, tmp_path: Path, at: int) -> None:
    """SQLite itself drops all that follows; here only pages of that frame are missing."""
    log = logged.with_name(f"{FILE}-wal")
    data = bytearray(log.read_bytes())
    data[at] ^= 1
    log.write_bytes(data)
    _, found = rescued(logged, tmp_path / "new")
    assert contents(found[-1]) == ["text 4 " * 1000]
    assert titles(found)[-1] == "4"


def test_what_was_not_committed_is_left_out(logged: Path, tmp_path: Path) -> None:
    log = logged.with_name(f"{FILE}-wal")
    data = log.read_bytes()
    frames = range(32, len(data), 24 + PAGE_SIZE)
    ends = [at for at in frames if data[at + 4 : at + 8] != bytes(4)]
    log.write_bytes(data[: ends[-1]])  # without the end of the last transaction
    _, found = rescued(logged, tmp_path / "new")
    assert titles(found)[-1] == "4"
    assert not found[-1].messages


# Files that cannot be rescued


def test_the_library_itself_is_refused(written: Path) -> None:
    with (
        Library(written) as library,
        pytest.raises(Qwen35Error, match=r"is the library itself: close every window, move .*\.\*"),
    ):
        rescue(library, written / FILE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no conversation"),
        (b"not a database " * 999, "holds no conversation"),
        (b"SQLite format 3\0" + b"\xff" * 9999, "newer version"),
        (None, "cannot be read: No such file"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.db").write_bytes(content)
    with Library(tmp_path) as library, pytest.raises(Qwen35Error, match=said):
        rescue(library, tmp_path / "x.db")
