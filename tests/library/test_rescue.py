"""What a damaged database still holds comes back, and nothing else.

Each try of the property test damages a copy of one library. By default the tries are few. For a
long run:

    QWEN35_DAMAGES=2000 scripts/test tests/library/test_rescue.py -s
"""

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import schema
from qwen35_mlx.library.checksums import update
from qwen35_mlx.library.connections import connect
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, Usage
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.page_records import PAGE_SIZE
from qwen35_mlx.library.remains import DAMAGED_TITLE
from qwen35_mlx.library.rescue import Rescue, rescue
from qwen35_mlx.library.rows import DAMAGED
from qwen35_mlx.library.verifying import damages
from tests.library.messages import add_message, write_old_library

DAMAGES = int(os.environ.get("QWEN35_DAMAGES", "18"))
STORED = Path(__file__).parents[1] / "stored"
Damage = Callable[[bytearray, random.Random], None]


def mark(message: int) -> str:
    """What only a row of this message holds, again and again; the search index has it folded."""
    return f"MARK-{message}-OF "


def fill(library: Library, conversations: int, seed: int = 1) -> None:
    """Write conversations with branches, long texts, calls of tools and figures."""
    rng = random.Random(seed)
    message = 0
    for number in range(conversations):
        at = library.create(
            title=f"Title {number}", model="m", settings=ChatSettings(system=f"Be {number}.")
        )
        parents: list[int | None] = [None]
        for _ in range(rng.randrange(2, 9)):
            message += 1
            length = rng.choice([1, 3, 20, 300, 900]) if rng.random() < 0.5 else 2
            text = mark(message) * length
            calls = ({"type": "function", "function": {"name": "f", "arguments": {"x": message}}},)
            added = add_message(
                library,
                at,
                rng.choice(parents[-2:]),
                rng.choice(["user", "assistant"]),
                text,
                thinking=rng.choice(["", mark(message)]),
                tool_calls=rng.choice([(), calls]),
                model=mark(message),
                usage=rng.choice([None, Usage(message, 1, 2, 0.5, 2.0, 3 << 33)]),
                created=1.7e9 + message + rng.choice([0, 0.25]),
            )
            assert added.id == message
            parents.append(message)
        library.save_draft(at, f"draft {number}")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that has free pages and no log."""
    folder = tmp_path_factory.mktemp("written")
    with Library(folder) as library:
        fill(library, 40)
        for at in (3, 17, 25):
            library.delete(at)
    with closing(sqlite3.connect(folder / FILE)) as db:
        assert db.execute("PRAGMA freelist_count").fetchone()[0]
        assert db.execute("PRAGMA page_size").fetchone()[0] == PAGE_SIZE
    return folder


def all_of(folder: Path) -> dict[int, Conversation]:
    with Library(folder) as library:
        return {at: library.conversation(at) for at in sorted(row.id for row in library.list(1000))}


def rescued(file: Path, folder: Path) -> tuple[Rescue, list[Conversation]]:
    """The conversations of a new library that was filled from a file, by their ids."""
    before = file.read_bytes() if file.exists() else b""
    with Library(folder) as library:
        result = rescue(library, file)
        found = [library.conversation(row.id) for row in library.list(1000)]
        assert not library.notices()
        assert not damages(library)
    assert (file.read_bytes() if file.exists() else b"") == before
    return result, sorted(found, key=lambda one: one.id)


def plain(message: Message) -> Message:
    return replace(message, id=0, parent=None)


def same(one: Conversation, other: Conversation) -> bool:
    return to_json(one) == to_json(other) and one.draft == other.draft


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


# Whole files


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


# Random damage


def overwrite(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 3, 20])):
        page = rng.randrange(len(data) // PAGE_SIZE)
        data[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = rng.randbytes(PAGE_SIZE)


def zero(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    for at in range(start, min(len(data), start + rng.choice([1, 600, 9000, 90_000]))):
        data[at] = 0


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def lose_header(data: bytearray, rng: random.Random) -> None:
    data[:PAGE_SIZE] = rng.choice([bytes(PAGE_SIZE), rng.randbytes(PAGE_SIZE)])
    overwrite(data, rng)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 10, 300])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def misplace(data: bytearray, rng: random.Random) -> None:
    """Write a page in place of another."""
    for _ in range(rng.choice([1, 5])):
        pages = len(data) // PAGE_SIZE
        source, target = rng.randrange(pages) * PAGE_SIZE, rng.randrange(pages) * PAGE_SIZE
        data[target : target + PAGE_SIZE] = data[source : source + PAGE_SIZE]


DAMAGE: tuple[Damage, ...] = (overwrite, zero, cut, lose_header, flip, misplace)


def pages_of(data: bytes, messages: int) -> dict[int, list[int]]:
    """By message, the pages that hold a part of its row, found by its mark alone."""
    found: dict[int, list[int]] = {}
    for message in range(1, messages + 1):
        wanted, at, pages = mark(message).encode(), -1, set()
        while (at := data.find(wanted, at + 1)) >= 0:
            pages |= {at // PAGE_SIZE, (at + len(wanted) + 150) // PAGE_SIZE}
        found[message] = sorted(pages)
    return found


def is_intact(page: int, before: bytes, after: bytes) -> bool:
    part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
    return before[part] == after[part] and len(after) >= part.stop


def test_all_on_intact_pages_comes_back_and_nothing_is_invented(
    written: Path, tmp_path: Path
) -> None:
    there = all_of(written)
    of_mark = {m.model: (at, m) for at, c in there.items() for m in c.messages}
    before = (written / FILE).read_bytes()
    pages = pages_of(before, max(m.id for _, m in of_mark.values()))
    counts: Counter[str] = Counter()
    for number in range(DAMAGES):
        rng = random.Random(number)
        data = bytearray(before)
        damage = DAMAGE[number % len(DAMAGE)]
        damage(data, rng)
        file = tmp_path / f"{number}.db"
        file.write_bytes(data)
        intact = {
            i for i, held in pages.items() if all(is_intact(p, before, data) for p in held)
        } & {m.id for _, m in of_mark.values()}
        if not intact:  # there may be no conversation at all
            with suppress(Qwen35Error):
                rescued(file, tmp_path / f"new-{number}")
            continue
        result, found = rescued(file, tmp_path / f"new-{number}")
        whole: set[int] = set()
        for conversation in found:
            sources = Counter()
            for message in conversation.messages:
                counts[f"{damage.__name__}: {message.error or 'whole'}"] += 1
                if message.error == DAMAGED:
                    continue
                at, original = of_mark[message.model]
                assert plain(message) == plain(original), number
                assert original.id not in whole
                whole.add(original.id)
                sources[at] += 1
                if original.parent is not None and message.parent is not None:
                    parent = conversation.message(message.parent)
                    if parent.error != DAMAGED:
                        assert of_mark[parent.model][1].id <= original.parent
            assert len(sources) <= 1
            assert conversation.title.removesuffix(f" {DAMAGED_TITLE}")
        assert whole >= intact, (number, damage.__name__, intact - whole)
        equal = {at for at, c in there.items() if any(same(c, one) for one in found)}
        with_gaps = {one.title for one in found if one.id in result.gaps}
        assert {one.title for one in found if one.id not in result.gaps} <= {
            there[at].title for at in equal
        }, number
        counts[f"{damage.__name__}: equal"] += len(equal)
        counts[f"{damage.__name__}: with gaps"] += len(with_gaps)
    print(*sorted(counts.items()), sep="\n")
    assert sum(count for name, count in counts.items() if DAMAGED in name)


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
    assert found.leaf == found.messages[-1].id
    assert found.created == found.messages[0].created
    assert len(found.messages) == 8
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
    assert result.total == 60
    assert len(found) < 60
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
