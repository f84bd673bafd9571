"""Times that no clock should have: lists keep their order, and no row spoils them."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from qwen35_mlx.library import library as library_module
from qwen35_mlx.library.checksums import update
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.rows import usable_time
from tests.library.messages import add_message, begin_reply, finish_reply, write_old_library

DAY = 86_400.0
NOW = 1_700_000_000.0
ODD_TIMES = [1.7e18, 1.7e15, 1.7e12, 1e300, -1e300, 1e19, -1.0, -62e9, 1e11, 2.6e11, 5e-324, 1e308]


def ids(library: Library) -> list[int]:
    return [summary.id for summary in library.list()]


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (NOW, NOW),
        (NOW * 1e3, NOW),
        (NOW * 1e6, NOW),
        (NOW * 1e9, NOW),
        (1, 1.0),
        (0.25, 0.25),
        (0, 0.0),
        (-1, 0.0),
        (-NOW, 0.0),
        (1e300, 0.0),
        (-1e300, 0.0),
        (inf, 0.0),
        (-inf, 0.0),
        (float("nan"), 0.0),
        (2**63 - 1, 9223372036.854776),
        (None, 0.0),
        ("1", 0.0),
    ],
)
def test_a_time_is_seconds_that_a_calendar_has(given: object, seconds: float) -> None:
    assert usable_time(given) == seconds
    assert usable_time(seconds) == seconds
    time.localtime(seconds)


@pytest.mark.parametrize("ahead", [400 * DAY, -400 * DAY, -NOW, 8_000 * DAY])
def test_a_wrong_clock_does_not_upset_the_order(tmp_path: Path, monkeypatch, ahead: float) -> None:
    """By turns, in one and in another conversation, with clocks that are right and wrong."""
    with Library(tmp_path) as library:
        a, b, c = (library.create(title=title) for title in "abc")
        for offset, at in ((0.0, a), (ahead, b), (0.0, c), (ahead, a), (0.0, b), (ahead, c)):
            set_clock(monkeypatch, NOW + offset)
            asked = add_message(library, at, None, "user", "?")
            assert ids(library)[0] == at
            finish_reply(library, begin_reply(library, at, asked.id, "m").id, "!")
            assert ids(library)[0] == at
        assert ids(library) == [c, b, a]
        for page in (1, 2):
            rows = library.list(page)
            while more := library.list(page, rows[-1]):
                rows = [*rows, *more]
            assert [row.id for row in rows] == ids(library)


def test_a_name_with_several_lists_the_last_changed_first(tmp_path: Path, monkeypatch) -> None:
    with Library(tmp_path) as library:
        one, two = library.create(title="day one"), library.create(title="day two")
        set_clock(monkeypatch, NOW + 400 * DAY)
        add_message(library, one, None, "user", "?")
        set_clock(monkeypatch, NOW)
        add_message(library, two, None, "user", "?")
        with pytest.raises(Exception, match=f"{two} .*{one} "):
            library.resolve("day")
        assert [hit.conversation for hit in library.search("day")] == [two, one]


def test_a_library_from_before_gets_an_order(tmp_path: Path, monkeypatch) -> None:
    """What a clock that was ahead has dated comes after what was written before it."""
    write_old_library(tmp_path, 2, ["one", "two"])
    now = time.time()
    with closing(sqlite3.connect(tmp_path / "library.db")) as db, db:
        db.execute("UPDATE conversations SET updated = ?", (now - 50,))
        db.execute("UPDATE messages SET created = ?", (now - 50,))
        for number, updated in ((2, now + 400 * DAY), (3, now - 10), (4, 1.7e18), (5, 3.0)):
            db.execute(
                "INSERT INTO conversations (id, title, model, settings, created, updated)"
                " VALUES (?, '', '', '{}', ?, ?)",
                (number, updated, updated),
            )
            db.execute(
                "INSERT INTO messages (conversation, role, content, thinking, tool_calls, state,"
                " error, model, created) VALUES (?, 'user', '', '', '', 'complete', '', '', ?)",
                (number, updated),
            )
    with Library(tmp_path) as library:
        # 4 was written after 3, and 2 after 1.
        assert ids(library) == [4, 3, 2, 1, 5]
        assert library.list()[0].updated == pytest.approx(1.7e9)
        add_message(library, 5, None, "user", "now")
        assert ids(library) == [5, 4, 3, 2, 1]


def test_an_import_takes_its_place_by_its_time(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        for updated in (100.0, 300.0):
            library.add_conversation(Conversation(0, "", updated=updated))
        library.add_conversation(Conversation(0, "between", updated=200.0))
        library.add_conversation(Conversation(0, "before", updated=0.0))
        assert ids(library) == [2, 3, 1, 4]
        add_message(library, 4, None, "user", "?")
        assert ids(library) == [4, 2, 3, 1]


@pytest.mark.parametrize("odd", ODD_TIMES)
def test_an_odd_time_of_an_import_spoils_nothing(tmp_path: Path, odd: float) -> None:
    message = Message(1, None, "user", "?", created=odd)
    given = Conversation(0, "odd", (message,), 1, created=odd, updated=odd)
    with Library(tmp_path) as library:
        library.create(title="beside")
        new = library.add_conversation(from_json(to_json(given)))
        stored = library.conversation(new)
        assert {row.title for row in library.list()} == {"odd", "beside"}
        assert stored.created == stored.updated == usable_time(odd)
        assert stored.messages[0].created == usable_time(odd)
        assert from_json(to_json(stored)) == replace(stored, id=0, messages=stored.messages)
        to_markdown(stored)
        for row in library.list():
            time.localtime(row.updated)


@pytest.mark.parametrize("odd", [*ODD_TIMES, inf, -inf])
def test_an_odd_time_in_the_file_spoils_nothing(tmp_path: Path, odd: float) -> None:
    """As earlier versions stored them."""
    with Library(tmp_path) as library:
        at = library.create(title="odd words")
        said = add_message(library, at, None, "user", "words")
        add_message(library, library.create(title="beside"), None, "user", "words")
        with library.transaction() as db:
            update(db, "conversations", at, {"created": odd, "updated": odd})
            update(db, "messages", said.id, {"created": odd})
    with Library(tmp_path) as library:
        assert not library.notices()
        assert {row.title for row in library.list()} == {"odd words", "beside"}
        for hit in (*library.search("words"), *library.search("wo")):
            time.localtime(hit.created)
        stored = library.conversation(at)
        text = to_json(stored)
        assert to_json(library.conversation(library.add_conversation(from_json(text)))) == text
        to_markdown(stored)


@pytest.mark.parametrize("ahead", [400 * DAY, -400 * DAY])
def test_a_deletion_by_a_wrong_clock_is_purged(tmp_path: Path, monkeypatch, ahead: float) -> None:
    """Of a window that was killed; another day's windows cannot undo it either."""
    with Library(tmp_path) as library:
        at = library.create(title="secret")
        with library.transaction() as db:
            update(db, "conversations", at, {"deleted": time.time() + ahead})
        recent = library.create(title="recent")
        with library.transaction() as db:
            update(db, "conversations", recent, {"deleted": time.time() + 60})
    with Library(tmp_path) as library:
        assert [row.id for row in library.deleted()] == [recent]
    assert library_module.KEEP_DELETED_SECONDS == DAY
