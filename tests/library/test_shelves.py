"""Pinned and archived conversations."""

from collections.abc import Generator
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.backup import back_up
from qwen35_mlx.library.conversation import Conversation, Shelf
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import FILE, Library
from tests.library.messages import add_message, write_old_library


@pytest.fixture
def library(tmp_path: Path) -> Generator[Library]:
    with Library(tmp_path / "home") as library:
        yield library


def add_question(library: Library) -> tuple[int, int]:
    """Create a conversation with one question; the ids of both."""
    conversation = library.create()
    return conversation, add_message(library, conversation, None, "user", "What is up?").id


def test_pinned_conversations_come_first_and_archived_ones_by_themselves(library: Library) -> None:
    moment = Conversation(0, "same time", created=5.0, updated=5.0)
    numbers = [library.add_conversation(moment) for _ in range(7)]
    for at in (1, 3):
        library.shelve(numbers[at], "pinned")
    for at in (2, 6):
        library.shelve(numbers[at], "archived")
    assert library.newest() == library.list()[2]

    def pages(*, archived: bool) -> list[int]:
        seen = []
        page = library.list(1, archived=archived)
        while page:
            seen += [numbers.index(summary.id) for summary in page]
            page = library.list(1, after=page[-1], archived=archived)
        return seen

    assert pages(archived=False) == [3, 1, 5, 4, 0]
    assert pages(archived=True) == [6, 2]
    assert library.list()[0].shelf == "pinned"
    found = library.search_conversations("same time")
    assert [hit.shelf for hit in found] == [
        *("archived", "listed", "listed", "pinned", "archived", "pinned", "listed")
    ]
    library.shelve(numbers[3], "listed")
    assert pages(archived=False) == [1, 5, 4, 3, 0]
    with pytest.raises(Qwen35Error, match="'pinned', 'listed' or 'archived'"):
        library.shelve(numbers[3], "hidden")  # pyright: ignore[reportArgumentType]


def test_a_message_brings_an_archived_conversation_back_and_leaves_a_pinned_one(
    library: Library,
) -> None:
    archived, question = add_question(library)
    pinned, other = add_question(library)
    library.shelve(archived, "archived")
    library.shelve(pinned, "pinned")
    for conversation, parent in ((archived, question), (pinned, other)):
        add_message(library, conversation, parent, "user", "and?")
    assert [library.conversation(at).shelf for at in (archived, pinned)] == ["listed", "pinned"]


@pytest.mark.parametrize("shelf", ["pinned", "listed", "archived"])
def test_exports_and_backups_keep_what_is_pinned_or_archived(
    library: Library, tmp_path: Path, shelf: Shelf
) -> None:
    conversation, _ = add_question(library)
    library.shelve(conversation, shelf)
    text = to_json(library.conversation(conversation))
    assert ("shelf" in text) is (shelf != "listed")  # earlier versions read the usual ones
    assert library.conversation(library.add_conversation(from_json(text))).shelf == shelf
    copy = tmp_path / "copy"
    copy.mkdir()
    back_up(library, copy / FILE)
    with Library(copy) as read:
        assert read.conversation(conversation).shelf == shelf


@pytest.mark.parametrize("version", [1, 2])
def test_all_of_an_older_library_are_listed(tmp_path: Path, version: int) -> None:
    write_old_library(tmp_path / "old", version, ["one"])
    with Library(tmp_path / "old") as library:
        assert [summary.shelf for summary in library.list()] == ["listed"]
        library.shelve(1, "pinned")
        assert library.conversation(1).shelf == "pinned"
