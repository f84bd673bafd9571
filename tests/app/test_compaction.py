"""A compacted conversation: all of it stays in view and in exports, and the way back is there."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from qwen35_chat.drawing.summary_entry import SummaryEntry
from qwen35_chat.html_export import to_html

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import SUMMARY_HEADING, Conversation, Message
from qwen35_mlx.library.exporting import to_markdown
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.summaries import after_summary, before_summary, whole_path
from qwen35_mlx.session.events import Failed, Opened
from qwen35_mlx.session.requests import Compact, Select
from tests.app.drive import chat, reply
from tests.app.plain_drive import PlainChat
from tests.library.messages import add_message

TURNS = ("one", "first answer", "two", "second answer", "three", "third answer", "four", "fourth")


def add_path(library: Library, conversation: int, words: Sequence[str], parent: int | None) -> int:
    roles = ("user", "assistant")
    for n, word in enumerate(words):
        parent = library.add_message(conversation, Message(0, parent, roles[n % 2], word)).id
    assert parent is not None
    return parent


def compact(library: Library, conversation: int, keep: int, summary: str) -> None:
    """What a compaction adds: a summary, and copies of the last `keep` messages of the path."""
    kept = library.conversation(conversation).path()[-keep:]
    content = f"Be brief.\n\n{SUMMARY_HEADING}\n{summary}"
    root = library.add_message(conversation, Message(0, None, "system", content))
    add_path(library, conversation, [message.content for message in kept], root.id)


@pytest.fixture
def stored(home: Path) -> Library:
    library = Library(home)
    conversation = library.create(title="numbers")
    add_path(library, conversation, TURNS, None)
    compact(library, conversation, 4, "They count.")
    return library


def words(stored: Conversation) -> list[str]:
    return [m.summary or m.content for m in whole_path(stored)]


# The messages that a summary stands for


def test_the_whole_path_has_the_turns_that_were_summarised(stored: Library) -> None:
    found = stored.conversation(1)
    assert words(found) == [*TURNS[:4], "They count.", *TURNS[4:]]
    assert [m.content for m in found.path()][1:] == [*TURNS[4:]]
    assert before_summary(found) == 8
    assert after_summary(found) is None
    back = found.with_leaf(8)
    assert words(back) == [*TURNS]
    assert before_summary(back) is None
    assert after_summary(back) == 9


def test_several_summaries_each_follow_what_they_sum_up(stored: Library) -> None:
    leaf = stored.conversation(1).leaf
    add_path(stored, 1, ("five", "fifth"), leaf)
    compact(stored, 1, 4, "They still count.")
    add_path(stored, 1, ("six", "sixth"), stored.conversation(1).leaf)
    found = stored.conversation(1)
    assert words(found) == [
        *TURNS[:4], "They count.", *TURNS[4:6], "They still count.", *TURNS[6:],
        "five", "fifth", "six", "sixth",
    ]  # fmt: skip


def test_the_same_words_twice_belong_to_the_longest_match(home: Path) -> None:
    with Library(home) as library:
        conversation = library.create(title="again")
        turns = ("go on", "yes", "go on", "yes", "go on", "yes", "go on", "no")
        add_path(library, conversation, turns, None)
        compact(library, conversation, 4, "It goes on.")
        found = library.conversation(conversation)
        assert words(found) == [*turns[:4], "It goes on.", *turns[4:]]


def test_a_summary_whose_turns_are_not_there_is_shown_alone(home: Path) -> None:
    with Library(home) as library:
        conversation = library.create(title="cut")
        content = f"{SUMMARY_HEADING}\nIt was long."
        root = library.add_message(conversation, Message(0, None, "system", content))
        add_path(library, conversation, ("one", "two"), root.id)
        found = library.conversation(conversation)
        assert words(found) == ["It was long.", "one", "two"]
        assert before_summary(found) is None


def test_a_summary_is_no_version_of_the_first_message(stored: Library) -> None:
    found = stored.conversation(1)
    assert found.position(1) == stored.position(1) == (1, 1)
    assert found.position(9) == stored.position(9) == (1, 1)
    second = add_message(stored, 1, None, "user", "one!")
    assert stored.conversation(1).position(second.id) == stored.position(second.id) == (2, 2)


# Exports


def test_exports_have_all_of_it(stored: Library) -> None:
    found = stored.conversation(1)
    for text in (to_markdown(found), to_html(found)):
        places = [text.index(word) for word in ("one", "second answer", "They count.", "fourth")]
        assert places == sorted(places)
        assert text.count("third answer") == 1
        assert SUMMARY_HEADING not in text


# The chat


async def test_all_of_it_stays_in_view_with_a_divider_that_unfolds(stored: Library, home) -> None:
    async with chat(home, conversation=1, library=stored, size=(80, 60)) as at:
        lines = at.text
        for word in TURNS:
            assert lines.count(word) >= 1
        assert "Summarised above: 4 messages" in lines
        assert "/compact undo goes back to the whole" in lines
        assert lines.index("second answer") < lines.index("Summarised") < lines.index("three")
        assert "They count." not in lines
        await at.press("tab", "up", "up", "up", "up")
        assert isinstance(at.transcript.marked, SummaryEntry)
        await at.press("space")
        assert "They count." in at.text
        await at.press("space", "escape")
        assert "They count." not in at.text


async def test_left_in_an_empty_composer_does_not_leave_the_summary(stored, home) -> None:
    async with chat(home, conversation=1, library=stored) as at:
        await at.press("left")
        assert "there is only one version of every message here" in at.text
        assert not any(isinstance(call, Select) for call in at.engine.calls)


async def test_the_way_back_and_forward(stored: Library, home: Path) -> None:
    async with chat(home, conversation=1, library=stored) as at:
        await at.turn("five", "fifth")
        await at.send("/compact undo")
        await at.shown()
        assert at.library.conversation(1).leaf == 8
        assert not any(isinstance(entry, SummaryEntry) for entry in at.transcript.entries)
        assert "/compact redo goes on from it" in at.text
        await at.send("/compact undo")
        await at.until(lambda: "there is no summary to undo here" in at.text)
        await at.send("/compact redo")
        await at.shown()
        assert any(isinstance(entry, SummaryEntry) for entry in at.transcript.entries)
        assert "five" in at.text
        await at.send("/compact now")
        await at.until(lambda: "undo or redo" in at.text)


async def test_going_to_another_version_says_which_and_how_to_return(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("q", "one")
        await at.press("f5")
        await at.shown(reply("two"))
        await at.press("left")
        await at.shown()
        assert "Version 1 of 2 of the reply; Right goes back" in at.text


async def test_a_summarised_message_can_be_edited_and_asked_again(stored, home: Path) -> None:
    async with chat(home, conversation=1, library=stored, size=(80, 60)) as at:
        await at.press("tab", *["up"] * 8)
        assert at.transcript.marked is at.messages[0]
        await at.press("e", "!", "enter")
        await at.shown(reply("anew"))
        assert [m.content for m in at.library.conversation(1).path()] == ["one!", "anew"]
        assert "Summarised" not in at.text


async def test_a_full_context_names_the_command_and_its_key(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Failed("the conversation has 9,000 tokens: shorten it", "too_long")])
        said = " ".join(at.text.split())
        assert "shorten it. /compact (F6) sums up the oldest turns, /new (Ctrl+N) begins" in said
        assert at.typed == "one"


async def test_f6_sums_up(home: Path, monkeypatch) -> None:
    async with chat(home) as at:
        await at.turn("one")
        take = at.engine._take
        monkeypatch.setattr(at.engine, "_take", lambda r: None if r == Compact() else take(r))
        await at.press("f6")
        assert at.controller.compacting
        await at.shown([Opened(1, "one")])


def test_plain_mode_writes_all_of_it(stored: Library, home: Path) -> None:
    session = PlainChat(home, library=stored)
    written = session.run("/compact undo", at=1)
    shown, _, after = written.partition("Answer: fourth\n")
    assert "Answer: second answer\nSummarised above: 4 messages. /compact undo" in shown
    assert "You: three\n" in shown
    assert "Summarised above" not in after
    assert after.count("second answer") == 1
    with pytest.raises(Qwen35Error, match="undo or redo"):
        session.plain.versions.compact("x").send(None)
    session.library.close()


def test_plain_mode_names_commands_where_the_context_is_full(session: PlainChat) -> None:
    written = session.run("q", [Failed("it has 9,000 tokens", "too_long")])
    assert "it has 9,000 tokens. /compact sums up the oldest turns, /new begins" in written
