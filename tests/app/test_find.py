"""Search: one row a conversation with its best line; it opens at the words, and F7 goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
from qwen35_chat.screens.conversations import ConversationList
from textual.widgets import OptionList

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Answer
from tests.app.drive import Driver, chat, done
from tests.library.messages import add_message, begin_reply, finish_reply


def fill(library: Library, title: str, *turns: tuple[str, str]) -> int:
    conversation = library.create(title=title)
    parent: int | None = None
    for text, answer in turns:
        question = add_message(library, conversation, parent, "user", text)
        reply = begin_reply(library, conversation, question.id, "demo")
        finish_reply(library, reply.id, answer)
        parent = reply.id
    return conversation


@pytest.fixture
def stored(home: Path) -> Library:
    library = Library(home)
    long = "\n\n".join(f"Paragraph {n}." for n in range(200))
    fill(
        library,
        "Orchard",
        ("which apples?", "pineapples are none"),
        ("more", f"{long}\n\nAn apple a day.\n\n{long}"),
        ("and?", "no fruit"),
        ("so", "the last apple"),
    )
    fill(library, "Apple pie", ("hello", "nothing"))
    fill(library, "Other", ("pears", "plums"))
    return library


async def search(at: Driver, words: str) -> list[str]:
    """The rows for these words."""
    await at.press("ctrl+s", *words.replace(" ", "_").replace("_", " "))
    await at.until(lambda: isinstance(at.app.screen, ConversationList))
    options = at.app.screen.query_one(OptionList)
    return [str(options.get_option_at_index(n).prompt) for n in range(options.option_count)]


def test_a_conversation_is_one_row_with_its_best_line(stored: Library) -> None:
    found = stored.search_conversations("apple")
    assert [(hits.title.text, hits.messages) for hits in found] == [
        ("Apple pie", 0),
        ("Orchard", 4),
    ]
    assert found[0].best.message is None
    assert found[1].best.snippet.text == "the last apple"
    assert found[1].best.where == "content"
    (only,) = stored.search_conversations("pine")
    assert only.best.snippet.text == "pineapples are none"
    assert stored.search_conversations("  ") == []


def test_words_in_the_text_go_before_those_in_thinking(home: Path) -> None:
    with Library(home) as library:
        at = fill(library, "t", ("a", "an apple"), ("b", "so"))
        last = library.conversation(at).path()[-1]
        library.save(replace(last, thinking="apple"))
        (found,) = library.search_conversations("apple")
        assert (found.best.where, found.messages) == ("content", 2)


async def open_orchard(at: Driver) -> None:
    """Open the second row of a search: its hit is the last message."""
    rows = await search(at, "apple")
    assert len(rows) == 2
    assert "Orchard" in rows[1]
    assert "4 hits" in rows[1]
    await at.press("down", "enter")
    await at.shown()
    await at.until(lambda: at.transcript.selecting.text == "apple")
    assert at.transcript.marked is at.messages[-1]


async def test_it_opens_at_the_words_and_goes_on(stored: Library, home: Path) -> None:
    async with chat(home, library=stored) as at:
        await open_orchard(at)
        assert "4 of 4 messages with apple; F7 goes on, Shift+F7 back" in at.text
        await at.press("f7")
        assert at.transcript.marked is at.messages[0]
        assert "1 of 4 messages" in at.text
        await at.press("f7", "f7")
        assert at.transcript.marked is at.messages[3]
        assert "An apple a day." in at.text  # in the middle of a long reply
        assert at.transcript.selecting.text == "apple"
        await at.press("f19")  # what a terminal sends for Shift+F7
        assert at.transcript.marked is at.messages[1]
        await at.press("tab", "n")
        assert at.transcript.marked is at.messages[3]
        await at.press("N", "escape", *"new")
        assert at.typed == "new"


@pytest.mark.parametrize("before", ["", "tab"], ids=["from the composer", "from the messages"])
async def test_what_is_typed_after_a_hit_is_typed(stored: Library, home: Path, before: str) -> None:
    async with chat(home, library=stored) as at:
        await at.turn("one")
        if before:
            await at.press(before)
        await open_orchard(at)
        messages = at.messages
        await at.press(*"rcbejkyn ", "N")
        assert at.typed == "rcbejkyn N"
        assert at.messages == messages
        assert at.transcript.marked is None
        # The search goes on from the hit, also while something is typed.
        await at.press("f19")
        assert at.transcript.marked is at.messages[3]
        assert at.typed == "rcbejkyn N"


async def test_a_hit_stays_marked_when_its_conversation_has_a_draft(
    stored: Library, home: Path
) -> None:
    (orchard,) = (row.id for row in stored.list() if row.title == "Orchard")
    stored.save_draft(orchard, "not sent yet")
    async with chat(home, library=stored) as at:
        await open_orchard(at)
        await at.until(lambda: at.typed == "not sent yet")
        assert at.transcript.marked is at.messages[-1]
        await at.press("r")
        assert at.typed == "not sent yetr"
        assert at.transcript.marked is None


async def test_without_a_search_there_is_nothing_to_go_to(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press("f7")
        assert "no search has led here: Ctrl+S begins one" in at.text


async def test_a_hit_in_another_version_says_so(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("which fruit?", "an apple")
        await at.press("f5")
        await at.shown([Answer("a pear"), done()])
        await at.press("ctrl+n")
        await search(at, "apple")
        await at.press("down", "enter")
        await at.shown()
        await at.until(lambda: "1 of 1 message with apple, in version 1 of 2" in at.text)


async def test_a_title_opens_at_the_end(stored: Library, home: Path) -> None:
    async with chat(home, library=stored) as at:
        await search(at, "pie")
        await at.press("enter")
        await at.shown()
        assert "nothing" in at.text
        assert at.transcript.marked is None
