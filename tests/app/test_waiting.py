"""The screen while the disk or another window keeps it waiting: keys show, and nothing is lost."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from qwen35_chat import runtime as runtime_module
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import Lane, ThreadCalls
from qwen35_chat.options import CommandOptions
from qwen35_chat.runtime import ChatRuntime
from qwen35_chat.screens.chat import ChatScreen
from qwen35_chat.screens.progress_lines import WAITING, WENT_THROUGH

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Answer, Cancelled, Failed, Notice
from qwen35_mlx.session.requests import Open
from tests.app.drive import Driver, chat, reply
from tests.app.plain_drive import PlainChat


@contextmanager
def another_window_writes(home: Path) -> Iterator[sqlite3.Connection]:
    """Hold a write transaction of the library."""
    db = sqlite3.connect(home / "library.db", isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
    finally:
        db.close()


@contextmanager
def busy_lane(controller: Controller, lane: Lane) -> Iterator[threading.Event]:
    """Keep a lane waiting until the event is set."""
    opened = threading.Event()
    controller.calls.start(lane, opened.wait, 20)
    try:
        yield opened
    finally:
        opened.set()


async def shows(at: Driver, text: str) -> None:
    """Wait until the screen shows a text, whatever still waits for the disk."""
    for _ in range(500):
        if text in at.text:
            return
        await at.pilot.pause(0.01)
    raise AssertionError(f"{text} is not shown:\n{at.text}")


async def draft_is(at: Driver, text: str) -> None:
    """Wait until the draft of a new conversation is stored."""
    for _ in range(500):
        if at.library.draft(None) == text:
            return
        await at.pilot.pause(0.01)
    raise AssertionError(at.library.draft(None))


async def test_keys_show_while_another_window_writes(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press("x")
        await at.until(lambda: at.library.draft(1) == "x")
        with another_window_writes(home) as other:
            await at.pilot.press(*"yz")
            await shows(at, "xyz")
            await at.pilot.pause(0.1)  # longer than a draft waits for the next key
            assert at.controller.drafts.waiting
            assert WAITING not in at.text  # a short wait is none of the user's business
            at.clock.now = 1.5
            await shows(at, WAITING)
            await at.pilot.press(*"!!")
            await shows(at, "xyz!!")
            assert at.library.draft(1) == "x"
            other.execute("COMMIT")
            await shows(at, WENT_THROUGH)
        await at.until(lambda: at.library.draft(1) == "xyz!!")
        assert WAITING not in at.text


async def test_a_wait_that_ends_in_an_error_shows_that_and_the_draft_is_tried_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    save = Library.save_draft

    def save_draft(library: Library, conversation: int | None, text: str) -> None:
        if not refused.is_set():
            raise Qwen35Error("the disk is full")
        save(library, conversation, text)

    monkeypatch.setattr(Library, "save_draft", save_draft)
    monkeypatch.setattr("qwen35_chat.screens.watchers.LIBRARY_SECONDS", 0.02)
    async with chat(home) as at:
        with busy_lane(at.controller, "library") as opened:
            await at.pilot.press("x")
            await at.pilot.pause(0.1)
            at.clock.now = 2.0
            await shows(at, WAITING)
            opened.set()
            await shows(at, "the disk is full")
        assert WENT_THROUGH not in at.text
        refused.set()
        await at.until(lambda: at.library.draft(None) == "x")


async def test_commands_that_wait_are_done_in_order(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        with busy_lane(at.controller, "library") as opened:
            at.composer.set_text("/rename First")
            await at.pilot.press("escape", "enter")
            at.composer.set_text("/rename Second")
            await at.pilot.press("escape", "enter")
            await at.pilot.press("ctrl+p")  # the screen goes on
            await shows(at, "Commands")
            await at.pilot.press("escape")
            assert at.library.conversation(1).title == "one"
            opened.set()
            await at.settled()
        assert at.library.conversation(1).title == "Second"
        assert at.controller.title == "Second"


async def test_a_command_begins_after_the_one_before_it_has_ended(home: Path) -> None:
    async with chat(home) as at:
        with busy_lane(at.controller, "files") as opened:
            await at.pilot.press("ctrl+o", "ctrl+o")  # from collapsed to open, and to hidden
            opened.set()
            await at.settled()
        assert at.controller.settings.thinking_view == "hidden"


async def test_nothing_is_sent_to_a_conversation_that_is_being_deleted(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        with busy_lane(at.controller, "library") as opened:
            at.composer.set_text("/delete")
            await at.pilot.press("escape", "enter")
            await at.pilot.pause(0.05)
            at.composer.set_text("two")
            await at.pilot.press("enter")
            await shows(at, "is being deleted")
            assert at.typed == "two"
            opened.set()
            await at.settled()
        await at.shown()
        assert at.sent == ["one"]
        assert at.controller.conversation is None
        assert at.typed == "two"  # goes on to the new conversation
        await at.press("enter")
        assert at.sent == ["one", "two"]


async def test_a_message_waits_for_its_files_and_those_after_it_keep_their_order(
    home: Path,
) -> None:
    Path("a.txt").write_text("text")
    async with chat(home) as at:
        with busy_lane(at.controller, "files") as opened:
            at.composer.set_text("see @a.txt ")
            await at.pilot.press("escape", "enter")
            at.composer.set_text("then this")
            await at.pilot.press("enter")
            await shows(at, "Next: see @a.txt\n  Next: then this")
            await at.pilot.press(*"and")
            assert (at.sent, at.typed) == ([], "and")
            await draft_is(at, "see @a.txt \n\nthen this\n\nand")
            opened.set()
            await at.settled()
        assert at.sent == ['see @a.txt \n\n<file name="a.txt">\ntext\n</file>']
        assert at.controller.queue == ["then this"]
        assert at.typed == "and"
        await at.until(lambda: at.library.draft(None) == "and" or at.library.draft(1) == "and")


async def test_a_message_whose_file_cannot_be_read_comes_back(home: Path) -> None:
    Path("b.bin").write_bytes(b"\0\1")
    async with chat(home) as at:
        await at.turn("one")
        await at.send("see @b.bin")
        assert at.sent == ["one"]
        assert at.typed == "see @b.bin"
        assert "not text" in at.text
        assert "Next" not in at.text
        at.composer.set_text("unsent")
        await at.press("f4")
        await at.send("see @b.bin")
        assert at.typed == "see @b.bin"
        assert at.app.chat.writing.editing is not None
        at.app.chat.writing.leave_edit()
        assert at.typed == "unsent"


async def test_enter_waits_for_the_rows_of_the_words_before_it(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("about rivers")
        await at.press("ctrl+n")
        await at.shown()
        await at.turn("about trees")
        await at.press("ctrl+s")
        with busy_lane(at.controller, "reads") as opened:
            await at.pilot.press(*"rivers", "enter")
            await at.pilot.pause(0.05)
            assert "Conversations" in at.text
            opened.set()
            await at.until(lambda: at.engine.calls[-1] == Open(1))


async def test_a_list_is_left_while_it_reads_and_its_commands_are_still_done(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press("ctrl+s")
        with busy_lane(at.controller, "library") as opened:
            await at.pilot.press("ctrl+d", "escape")
            await at.pilot.pause(0.05)
            await at.pilot.pause(0.05)
            assert at.app.screen is at.app.chat
            opened.set()
        await at.until(lambda: "Deleted one" in at.text)
        await at.until(lambda: at.controller.conversation is None)
        assert at.library.list() == []


async def test_what_is_typed_until_a_draft_is_read_goes_below_it(home: Path) -> None:
    with Library(home) as library:
        library.save_draft(None, "from before")
    async with chat(home) as at:
        assert at.typed == "from before"
        await at.press("ctrl+n")  # of the same window, and the same draft
        await at.shown()
        assert at.typed == "from before"
        await at.turn("one")
        with busy_lane(at.controller, "reads") as opened:
            at.app.chat._draft.load()
            await at.pilot.press(*"new")
            await at.pilot.pause(0.05)
            assert at.library.draft(1) == ""
            at.library.save_draft(1, "stored")
            opened.set()
            await at.settled()
        assert at.typed == "stored\nnew"


async def test_what_is_typed_last_stays_with_its_conversation(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat(home) as at:
        await at.turn("one")
        monkeypatch.setattr("qwen35_chat.screens.typing.DRAFT_SECONDS", 60)
        at.controller.open(None)  # as if the engine took its time
        at.composer.set_text("of the first")
        await at.shown()
        assert at.typed == ""
        assert at.library.draft(1) == "of the first"


async def test_another_version_leaves_the_composer_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press("f5")
        await at.shown(reply("two"))
        monkeypatch.setattr("qwen35_chat.screens.typing.DRAFT_SECONDS", 60)
        at.app.chat.perform(at.controller.select_version(-1))
        at.composer.set_text("typed meanwhile")
        at.composer.move_cursor((0, 5))
        await at.settled()
        await at.shown()
        assert "< 1/2 >" in at.text
        assert at.typed == "typed meanwhile"
        assert at.composer.cursor_location == (0, 5)


async def test_a_conversation_that_cannot_be_read_is_an_error_on_the_screen(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press("ctrl+n")
        await at.shown()

        def conversation(*_: object) -> None:
            raise Qwen35Error("library.db is damaged")

        at.controller.open(1)
        monkeypatch.setattr(Library, "conversation", conversation)
        await at.shown()
        assert "library.db is damaged" in at.text
        assert at.app.is_running


# What is said about a reply that could not be stored

NOT_SAVED = "the reply is not saved yet: the disk is full"
SAVED = "the reply is saved now"


async def test_a_notice_stays_while_its_conversation_is_shown_again(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press("f5")
        await at.shown([Answer("two"), Notice(NOT_SAVED), Cancelled()])
        await at.press("left")
        await at.shown()
        assert "< 1/2 >" in at.text
        assert NOT_SAVED in at.text
        await at.press("ctrl+n")
        await at.shown()
        assert NOT_SAVED not in at.text
        at.controller.open(1)
        await at.shown([Notice(SAVED)])
        assert NOT_SAVED in at.text
        assert SAVED in at.text
        # A turn that is taken back shows the conversation again, too.
        at.engine._library, library = None, at.engine._library
        await at.send("three")
        await at.shown([Failed("too long")])
        at.engine._library = library
        assert at.text.index(NOT_SAVED) < at.text.index(SAVED)


def test_plain_mode_says_both(session: PlainChat) -> None:
    written = session.run("one", [Answer("so")], [Notice(NOT_SAVED)], [Notice(SAVED), Cancelled()])
    assert f"{NOT_SAVED}\n" in written
    assert f"{SAVED}\n" in written


def test_plain_mode_reports_what_is_saved_beside_a_turn(
    session: PlainChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(*_: object) -> None:
        raise Qwen35Error("history.jsonl cannot be written")

    monkeypatch.setattr(session.controller.history, "add", add)
    assert "Error: history.jsonl cannot be written\n" in session.run("one", reply("so"))


# The end


def ended(monkeypatch: pytest.MonkeyPatch, seconds: float) -> bool:
    """End a chat while a save waits, for `seconds` at most; whether the library was closed."""
    monkeypatch.setattr(runtime_module, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(runtime_module, "CLOSE_SECONDS", seconds)
    closed: list[bool] = []
    close = Library.close
    monkeypatch.setattr(Library, "close", lambda library: (closed.append(True), close(library)))
    opened, timer = threading.Event(), threading.Timer(0.2, lambda: opened.set())
    with ChatRuntime(CommandOptions(model="demo"), fake=True) as chat_runtime:
        controller = chat_runtime.controller
        controller.calls = ThreadCalls()
        controller.calls.start("library", opened.wait, 20)
        controller.save_draft("typed last")
        if seconds > 1:
            timer.start()
    opened.set()
    return bool(closed)


def test_the_end_waits_for_a_save_with_a_line(monkeypatch, capsys) -> None:
    assert ended(monkeypatch, 20.0)
    assert capsys.readouterr().err == (
        "waiting for another window or the disk to save what was typed last ...\n"
    )


def test_the_end_gives_up_with_a_line_after_a_bound(monkeypatch, capsys) -> None:
    assert not ended(monkeypatch, 0.05)
    waiting, error = capsys.readouterr().err.splitlines()
    assert waiting.startswith("waiting")
    assert error.startswith("error: what was typed last is not saved")


def test_the_chat_screen_has_no_handler_that_waits() -> None:
    """A coroutine as a handler would hold up the messages behind it."""
    from inspect import iscoroutinefunction

    names = [name for name in dir(ChatScreen) if name.startswith(("on_", "action_"))]
    own = [name for name in names if "qwen35_chat" in getattr(ChatScreen, name).__module__]
    assert len(own) > 5
    assert not [name for name in own if iscoroutinefunction(getattr(ChatScreen, name))]
