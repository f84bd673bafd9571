"""Drafts on their way into a library that waits, refuses, or forgets."""

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from qwen35_chat.drafts import Drafts

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library


class SlowLibrary(Library):
    """A library whose next saves of drafts wait for `gate`, or raise `refusal`."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.refusal = ""
        self.saved: list[str] = []

    def save_draft(self, conversation: int | None, text: str) -> None:
        self.entered.set()
        assert self.gate.wait(20)
        if self.refusal:
            raise Qwen35Error(self.refusal)
        super().save_draft(conversation, text)
        self.saved.append(text)


@pytest.fixture
def library(home: Path) -> Iterable[SlowLibrary]:
    with SlowLibrary(home) as library:
        yield library


def test_texts_that_come_during_a_save_replace_each_other(library: SlowLibrary) -> None:
    drafts, number = Drafts(library), library.create(title="one")
    library.gate.clear()
    drafts.note(number, "a")
    thread = threading.Thread(target=drafts.write)
    thread.start()
    assert library.entered.wait(20)
    for text in ("ab", "abc", "abcd"):
        drafts.note(number, text)
    assert drafts.read(number) == "abcd"
    library.gate.set()
    thread.join()
    assert drafts.waiting  # the first save has not stored the last text
    for _ in range(3):
        drafts.write()
    assert library.saved == ["a", "abcd"]
    assert library.draft(number) == "abcd"
    assert not drafts.waiting


def test_a_draft_that_is_refused_is_kept_and_tried_again(library: SlowLibrary) -> None:
    drafts = Drafts(library)
    one, two = library.create(title="one"), library.create(title="two")
    library.refusal = "the disk is full"
    drafts.note(one, "first")
    drafts.note(two, "second")
    with pytest.raises(Qwen35Error, match="full"):
        drafts.write()
    drafts.write()  # the same error is not repeated
    assert (drafts.read(one), drafts.read(two)) == ("first", "second")
    library.refusal = ""
    drafts.write()
    assert (library.draft(one), library.draft(two)) == ("first", "second")
    library.refusal = "the disk is full"
    drafts.note(one, "third")
    with pytest.raises(Qwen35Error, match="full"):
        drafts.write()


def test_one_draft_that_is_refused_does_not_keep_the_others(library: SlowLibrary) -> None:
    drafts, number = Drafts(library), library.create(title="one")
    drafts.note(99, "of a conversation that is gone")
    drafts.note(number, "kept")
    with pytest.raises(Qwen35Error, match="conversation 99"):
        drafts.write()
    assert library.draft(number) == "kept"
    drafts.forget(99)
    assert not drafts.waiting
