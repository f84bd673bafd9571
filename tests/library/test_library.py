"""The library: messages, lists, deletion, windows, threads and drafts."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import library as library_module
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, MessageState, Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.rows import settings_from_json, settings_to_json
from tests.library.messages import add_message, begin_reply, finish_reply, update_reply

USAGE = Usage(100, 40, 20, 0.5, 1.25, 1 << 30)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, "ü", None]}}}


@pytest.fixture
def library(tmp_path: Path) -> Generator[Library]:
    with Library(tmp_path / "home") as library:
        yield library


def add_question(library: Library, text: str = "What is up?", **options) -> tuple[int, int]:
    """Create a conversation with one question; the ids of both."""
    conversation = library.create(**options)
    return conversation, add_message(library, conversation, None, "user", text).id


def ids(library: Library) -> list[int]:
    return [summary.id for summary in library.list()]


# Messages


def test_a_turn_is_read_back_as_it_was_written(library: Library) -> None:
    sampling, arguments = {"temperature": 0.5, "top_k": None}, {"effort": "low", "keep": [1]}
    settings = ChatSettings("Be brief.", False, 10, 3, sampling, arguments, 0, False)
    conversation, question = add_question(library, model="m", settings=settings)
    reply = begin_reply(library, conversation, question, "m").id
    update_reply(library, reply, "Not", "Hm", thinking_seconds=0.5)
    partial = library.message(reply)
    assert (partial.state, partial.content, partial.thinking) == ("partial", "Not", "Hm")
    assert partial.thinking_seconds == 0.5
    finish_reply(
        library,
        reply,
        "Not much.",
        "Hm.",
        [CALL],
        finish_reason="tool_calls",
        usage=USAGE,
        thinking_seconds=0.75,
    )
    read = library.conversation(conversation)
    assert read.settings == settings
    assert read.model == "m"
    assert [message.role for message in read.path()] == ["user", "assistant"]
    message = read.message(reply)
    assert (message.content, message.thinking, message.tool_calls) == ("Not much.", "Hm.", (CALL,))
    assert (message.state, message.finish_reason, message.model) == ("complete", "tool_calls", "m")
    assert (message.usage, message.thinking_seconds) == (USAGE, 0.75)
    assert message.parent == question
    assert message == library.message(reply)
    assert read.updated > message.created >= read.message(question).created > read.created


def test_a_failed_or_cancelled_reply_is_stored(library: Library) -> None:
    conversation, question = add_question(library)
    ends: list[tuple[MessageState, str]] = [("failed", "no memory"), ("cancelled", "")]
    for state, error in ends:
        reply = begin_reply(library, conversation, question, "m").id
        finish_reply(library, reply, "As far as", state=state, error=error)
        read = library.message(reply)
        assert (read.state, read.error, read.content) == (state, error, "As far as")
        assert (read.finish_reason, read.usage) == (None, None)


def test_a_message_is_returned_as_it_is_stored(library: Library) -> None:
    conversation = library.create()
    tool = add_message(
        library, conversation, None, "assistant", "x", thinking="y", tool_calls=(CALL,), model="m"
    )
    assert library.message(tool.id) == tool
    assert library.conversation(conversation).messages == (tool,)


def test_a_new_version_keeps_the_old_path(library: Library) -> None:
    conversation, question = add_question(library)
    first = begin_reply(library, conversation, question, "m").id
    retry = begin_reply(library, conversation, question, "m").id
    edit = add_message(library, conversation, None, "user", "Or so?").id
    tree = library.conversation(conversation)
    assert tree.leaf == edit
    assert tree.siblings(first) == (first, retry)
    assert tree.siblings(edit) == (question, edit)
    add_question(library, "another conversation")
    for message in (question, first, retry, edit):
        assert library.position(message) == tree.position(message)
    library.select(conversation, first)
    assert [message.id for message in library.conversation(conversation).path()] == [
        question,
        first,
    ]
    library.select(conversation, None)
    assert library.conversation(conversation).path() == ()


def test_a_missing_id_is_an_error_and_changes_nothing(library: Library) -> None:
    conversation, question = add_question(library)
    other, elsewhere = add_question(library, "other")
    before = library.conversation(conversation)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: add_message(library, 99, None, "user", "x"), "conversation 99"),
        (lambda: add_message(library, conversation, 99, "user", "x"), "no message 99"),
        (lambda: add_message(library, conversation, elsewhere, "user", "x"), "no message"),
        (lambda: library.select(conversation, elsewhere), "no message"),
        (lambda: library.select(99, question), "conversation 99"),
        (lambda: update_reply(library, 99, "x"), "message 99"),
        (lambda: finish_reply(library, 99, "x"), "message 99"),
        (lambda: library.message(99), "message 99"),
        (lambda: library.position(99), "message 99"),
        (lambda: library.conversation(99), "conversation 99"),
        (lambda: library.rename(99, "x"), "conversation 99"),
        (lambda: library.configure(99, ChatSettings()), "conversation 99"),
        (lambda: library.use_model(99, "x"), "conversation 99"),
        (lambda: library.save_draft(99, "x"), "conversation 99"),
        (lambda: library.delete(99), "conversation 99"),
        (lambda: library.undelete(99), "conversation 99"),
    ]
    for call, named in calls:
        with pytest.raises(Qwen35Error, match=named):
            call()
    assert library.conversation(conversation) == before
    assert sorted(ids(library)) == [conversation, other]
    assert len(library.search("x")) == 0
    assert library.claim(99)  # the failed calls left no lock


def test_unpaired_surrogates_are_replaced(library: Library) -> None:
    conversation, question = add_question(library, "broken \ud83d paste \ud83d\ude00 \x00 end")
    assert library.message(question).content == "broken \ufffd paste 😀 \x00 end"
    reply = begin_reply(library, conversation, question, "m").id
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "\udc00"}}}
    finish_reply(library, reply, "\udc00", "\udc00", [call], state="failed", error="\udc00")
    library.rename(conversation, "\udc00")
    library.save_draft(conversation, "\udc00")
    library.save_draft(None, "\udc00")
    library.configure(conversation, ChatSettings(system="\udc00"))
    assert library.conversation(conversation).settings.system == "\ufffd"
    assert library.message(reply).tool_calls[0]["function"]["arguments"] == {"x": "\ufffd"}


def test_a_transaction_is_atomic(library: Library) -> None:
    def fail() -> None:
        with library.transaction():
            conversation, question = add_question(library)
            begin_reply(library, conversation, question, "m")
            assert library.count() == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert library.count() == 0
    with library.transaction():
        add_question(library)
        with Library(library.folder) as other:
            assert other.count() == 0
    assert library.count() == 1


def test_adding_a_conversation_is_atomic(library: Library) -> None:
    messages = (Message(1, None, "user", "a"), Message(2, 1, "assistant", "b", created=2**0.5))
    good = Conversation(0, "T", messages, 2, created=1.5, updated=2.5)
    new = library.add_conversation(good)
    read = library.conversation(new)
    assert (read.title, read.created, read.updated) == ("T", 1.5, 2.5)
    assert read.message(read.leaf or 0).created == 2**0.5
    bad = replace(good, messages=(*messages, Message(3, 2, "robot", "c")))  # pyright: ignore[reportArgumentType]
    with pytest.raises(Qwen35Error, match="CHECK constraint"):
        library.add_conversation(bad)
    assert ids(library) == [new]


# Lists, titles, settings


def test_settings_of_an_earlier_version_are_read_and_it_reads_ours() -> None:
    """It wrote all of its own settings, and refuses others."""
    names = ("system", "thinking", "max_tokens", "seed", "sampling")
    theirs = json.dumps(dict.fromkeys(names[:-1]) | {"sampling": {"top_p": None}})
    assert settings_from_json(theirs) == ChatSettings(sampling={"top_p": None})
    ours = ChatSettings("S", False, 5, 0, {"top_k": 3})
    assert json.loads(settings_to_json(ours)).keys() == set(names)
    assert settings_from_json(settings_to_json(ours)) == ours
    assert settings_to_json(ChatSettings()) == "{}"


def test_the_first_question_sets_the_title(library: Library) -> None:
    conversation = library.create()
    system = add_message(library, conversation, None, "system", "Be brief.").id
    assert library.conversation(conversation).title == ""
    question = add_message(library, conversation, system, "user", "  What is\tup?\nMore").id
    assert library.conversation(conversation).title == "What is up?"
    add_message(library, conversation, question, "user", "Second")
    assert library.conversation(conversation).title == "What is up?"
    assert library.rename(conversation, " A  better\none ") == "A better one"
    assert library.conversation(conversation).title == "A better one"
    assert library.rename(conversation, "  ") == "What is up?"
    assert library.conversation(conversation).title == "What is up?"
    named, _ = add_question(library, "Not this", title="This")
    assert library.conversation(named).title == "This"


def test_a_list_begins_with_the_last_updated(library: Library) -> None:
    first, question = add_question(library, "first")
    second, _ = add_question(library, "second")
    assert ids(library) == [second, first]
    reply = begin_reply(library, first, question, "m").id
    assert ids(library) == [first, second]
    third, _ = add_question(library, "third")
    update_reply(library, reply, "so far")
    library.save_draft(first, "not sent")
    library.select(second, None)
    library.rename(second, "2nd")
    assert ids(library) == [third, first, second]
    finish_reply(library, reply, "x" * 1000, usage=USAGE)
    assert ids(library) == [first, third, second]
    summary = library.list()[0]
    assert summary.preview == "x" * 200
    assert (summary.messages, summary.tokens) == (2, 120)
    assert (summary.title, library.list()[2].title) == ("first", "2nd")
    assert library.list()[1].tokens == 0
    assert library.list()[2].preview == ""  # no path is selected


def test_pages_hold_each_conversation_once(library: Library) -> None:
    moment = Conversation(0, "same time", created=5.0, updated=5.0)
    with library.transaction():
        expected = [library.add_conversation(moment) for _ in range(7)]
        expected += [library.add_conversation(replace(moment, updated=6.0)) for _ in range(7)]
    seen: list[int] = []
    page = library.list(3)
    while page:
        seen += [summary.id for summary in page]
        page = library.list(3, after=page[-1])
    assert seen == expected[::-1]
    assert library.count() == 14


def test_settings_and_model_are_stored(library: Library) -> None:
    conversation, _ = add_question(library)
    assert library.conversation(conversation).settings == ChatSettings()
    settings = ChatSettings(system="S", thinking=True, sampling={"top_p": 0.5})
    library.configure(conversation, settings)
    library.use_model(conversation, "org/m")
    with Library(library.folder) as other:
        read = other.conversation(conversation)
        assert (read.settings, read.model) == (settings, "org/m")
        assert other.list()[0].model == "org/m"


def test_a_name_resolves_to_one_conversation(library: Library) -> None:
    first = library.create(title="Tea in Köln")
    second = library.create(title="Tea")
    third = library.create(title="Teatime")
    number = library.create(title=f"{first}")
    with pytest.raises(
        Qwen35Error, match=rf"'{first}' is the id of 'Tea in Köln' and the title of"
    ):
        library.resolve(f"{first}")
    assert library.resolve(f"{third}") == third
    assert library.resolve("tea") == second
    upper = library.create(title="TEA")
    assert (library.resolve("Tea"), library.resolve("TEA")) == (second, upper)
    library.delete(upper)
    assert library.resolve(" TEA  IN ") == first
    assert library.resolve("tea in kÖ") == first
    assert (library.resolve("teat"), library.resolve("eat")) == (third, third)
    library.delete(second)
    with pytest.raises(Qwen35Error, match=rf"2 .* 'te': .*{first} \(Tea in Köln\)") as raised:
        library.resolve("te")
    assert f"{third} (Teatime)" in str(raised.value)
    for unknown in ("", "  ", "coffee", "99", "²", "٣", "9" * 5000, "9" * 19, "x" * 5000):
        with pytest.raises(Qwen35Error, match="no conversation is called") as unknown_error:
            library.resolve(unknown)
        assert len(str(unknown_error.value)) < 200
    assert library.resolve(f"000{first}") == first
    for call in (library.conversation, library.delete, library.undelete, library.message):
        with pytest.raises(Qwen35Error, match="give a whole number"):
            call(2**70)
    library.delete(first)
    assert library.resolve(f"{first}") == number
    with library.transaction():
        for _ in range(10):
            library.create(title="Many")
    with pytest.raises(Qwen35Error, match=r"10 conversations .*\.\.\.$"):
        library.resolve("many")


# Deleting


def test_a_deletion_can_be_undone(library: Library) -> None:
    conversation, _ = add_question(library)
    before = library.conversation(conversation)
    library.delete(conversation)
    assert not library.list()
    assert library.count() == 0
    assert not library.search("What")
    with pytest.raises(Qwen35Error, match="was deleted"):
        library.conversation(conversation)
    with pytest.raises(Qwen35Error, match="was deleted"):
        add_message(library, conversation, None, "user", "x")
    assert [summary.id for summary in library.deleted()] == [conversation]
    library.undelete(conversation)
    assert not library.deleted()
    assert library.conversation(conversation) == before
    assert library.search("What")


def test_closing_purges_deleted_conversations(library: Library) -> None:
    kept, _ = add_question(library)
    purged, message = add_question(library, "unforgettable")
    library.delete(purged)
    library.close()
    assert b"unforgettable" not in library.file.read_bytes()
    with Library(library.folder) as after:
        assert ids(after) == [kept]
        assert not after.deleted()
        with pytest.raises(Qwen35Error, match="not there"):
            after.undelete(purged)
        with pytest.raises(Qwen35Error, match="not there"):
            after.message(message)
        assert add_question(after)[0] > purged  # ids are never reused


def test_another_window_cannot_undo_or_purge_a_deletion(library: Library) -> None:
    conversation, _ = add_question(library)
    library.delete(conversation)
    with Library(library.folder) as other:
        assert not other.deleted()
        with pytest.raises(Qwen35Error, match="deleted in another window"):
            other.undelete(conversation)
    library.undelete(conversation)
    assert ids(library) == [conversation]


def test_a_conversation_open_in_another_window_is_not_deleted(library: Library) -> None:
    conversation, _ = add_question(library)
    with Library(library.folder) as other:
        assert other.claim(conversation)
        with pytest.raises(Qwen35Error, match="open in another window"):
            library.delete(conversation)
        other.release(conversation)
        library.claim(conversation)
        library.delete(conversation)  # its own claim does not prevent it
        library.release(conversation)
        assert not other.claim(conversation)  # the deletion keeps the lock
        library.undelete(conversation)
        assert other.claim(conversation)


def test_a_deletion_by_a_killed_window_can_be_undone_for_a_day(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation, _ = add_question(library)
    code = (
        "import os, sys; from qwen35_mlx.library.library import Library;"
        f"Library(sys.argv[1]).delete({conversation}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(library.folder)], check=False)
    library.close()
    with Library(library.folder) as after:
        assert not after.list()
        assert [summary.id for summary in after.deleted()] == [conversation]
        after.undelete(conversation)
        assert ids(after) == [conversation]
    subprocess.run([sys.executable, "-c", code, str(library.folder)], check=False)
    monkeypatch.setattr(library_module, "KEEP_DELETED_SECONDS", -1.0)  # at once
    Library(library.folder).close()
    with Library(library.folder) as after:
        assert not after.deleted()


def test_a_long_conversation_is_deleted(library: Library) -> None:
    """The tree is deeper than SQLite's limit for nested triggers and cascades."""
    messages = tuple(Message(i, i - 1 or None, "user", f"{i}") for i in range(1, 3001))
    conversation = library.add_conversation(Conversation(0, "long", messages, 3000))
    assert len(library.conversation(conversation).path()) == 3000
    library.delete(conversation)
    library.close()
    with Library(library.folder) as after:
        assert not after.deleted()


# Windows and threads


def test_only_one_window_can_claim_a_conversation(library: Library) -> None:
    conversation, _ = add_question(library)
    assert library.claim(conversation)
    assert library.claim(conversation)
    with Library(library.folder) as other:
        assert not other.claim(conversation)
        assert other.conversation(conversation).path()
        library.release(conversation)
        assert other.claim(conversation)
        assert not library.claim(conversation)
    assert library.claim(conversation)  # the other window is closed


def test_a_window_reads_what_another_wrote(library: Library) -> None:
    with Library(library.folder) as other:
        conversation, question = add_question(library)
        reply = begin_reply(library, conversation, question, "m").id
        update_reply(library, reply, "so far")
        assert other.message(reply).content == "so far"


def test_a_thread_reads_a_snapshot_while_another_writes(library: Library) -> None:
    conversation, question = add_question(library)
    reading, errors = threading.Event(), []

    def write() -> None:
        try:
            with library.transaction():
                begin_reply(library, conversation, question, "m")
                reading.wait(30)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    with library.reading():  # all reads in here see one snapshot
        thread.start()
        assert len(library.conversation(conversation).messages) == 1
        reading.set()
        thread.join()
        assert len(library.conversation(conversation).messages) == 1
    assert len(library.conversation(conversation).messages) == 2
    assert not errors


def test_several_threads_write_at_the_same_time(library: Library) -> None:
    conversation, question = add_question(library)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(10):
                reply = begin_reply(library, conversation, question, "m").id
                update_reply(library, reply, f"{number}")
                library.save_draft(None, f"{number}")
                library.search("What")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(library.conversation(conversation).messages) == 41


def test_a_closed_library_raises_an_error(library: Library) -> None:
    conversation, question = add_question(library)
    library.claim(conversation)
    library.save_draft(None, "x")
    library.close()
    library.close()
    for call in (library.list, lambda: update_reply(library, question, "x")):
        with pytest.raises(Qwen35Error, match="was closed"):
            call()
    left = sorted(file.name for file in library.folder.rglob("*"))
    assert left == ["library.check", "library.db", "open"]
    with Library(library.folder) as other:
        assert other.claim(conversation)


# Drafts


def test_drafts_survive_the_window(library: Library) -> None:
    conversation, _ = add_question(library)
    assert library.draft(conversation) == library.draft(None) == ""
    library.save_draft(conversation, "and")
    library.save_draft(None, "new")
    library.save_draft(None, "newer")
    assert library.draft(None) == "newer"
    with Library(library.folder) as other:
        assert other.draft(conversation) == "and"
        assert other.conversation(conversation).draft == "and"
        assert other.draft(None) == ""  # each window has its own new draft
        other.save_draft(None, "elsewhere")
        assert library.draft(None) == "newer"
    library.close()
    with Library(library.folder) as other, Library(library.folder) as third:
        assert {other.draft(None), third.draft(None)} == {"newer", "elsewhere"}
        other.save_draft(None, "")
        third.save_draft(None, "")
        third.save_draft(None, "")
        other.save_draft(conversation, "")
        assert other.draft(None) == third.draft(None) == other.draft(conversation) == ""
        other.save_draft(None, "again")
        assert other.draft(None) == "again"


def test_the_draft_of_a_conversation_is_deleted_with_it(library: Library) -> None:
    conversation, _ = add_question(library)
    library.save_draft(conversation, "and")
    library.delete(conversation)
    library.close()
    with Library(library.folder) as other:
        assert other.draft(conversation) == ""


def test_a_save_keeps_place_role_model_and_time(library: Library) -> None:
    conversation = library.create()
    question = add_message(library, conversation, None, "user", "Why?").id
    reply = begin_reply(library, conversation, question, "m")
    library.save(Message(reply.id, None, "user", "text", model="other", created=1.0))
    expected = replace(reply, content="text", state="complete")
    assert library.message(reply.id) == expected
    assert library.conversation(conversation).leaf == reply.id


def test_only_a_durable_save_waits_for_the_disk_and_updates_the_conversation(
    library: Library,
) -> None:
    conversation = library.create()
    question = add_message(library, conversation, None, "user", "Why?").id
    reply = begin_reply(library, conversation, question, "m")
    statements: list[str] = []
    with library.transaction() as db:
        db.set_trace_callback(statements.append)
    before = library.conversation(conversation).updated
    library.save(reply, durable=False)
    assert "PRAGMA synchronous = NORMAL" in statements
    assert "PRAGMA synchronous = FULL" not in statements
    assert library.conversation(conversation).updated == before
    library.save(reply)
    assert "PRAGMA synchronous = FULL" in statements
    assert library.conversation(conversation).updated > before
