"""The library as one window sees it."""

from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import Figures
from qwen35_mlx.session.library import Library
from qwen35_mlx.session.requests import Configure

FIGURES = Figures(100, 40, 20, 0.5, 1.25, 1 << 30)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, "ü", None]}}}


@pytest.fixture
def library(tmp_path: Path):
    with Library(tmp_path / "home") as library:
        yield library


def asked(library: Library, text: str = "What is up?", **options) -> tuple[int, int]:
    """A conversation with one question; the ids of both."""
    conversation = library.create(**options)
    return conversation, library.add_message(conversation, None, "user", text).id


def test_a_turn_is_read_back_as_it_was_written(library: Library) -> None:
    settings = Configure("Be brief.", False, 10, 3, {"temperature": 0.5, "top_k": None})
    conversation, question = asked(library, model="m", settings=settings)
    reply = library.begin_reply(conversation, question, "m").id
    library.update_reply(reply, "Not", "Hm", thinking_seconds=0.5)
    assert library.message(reply).state == "partial"
    assert library.message(reply).content == "Not"
    library.finish_reply(
        reply,
        "Not much.",
        "Hm.",
        [CALL],
        finish_reason="tool_calls",
        figures=FIGURES,
        thinking_seconds=0.75,
    )
    read = library.conversation(conversation)
    assert read.settings == settings
    assert read.title == "What is up?"
    assert [message.role for message in read.path()] == ["user", "assistant"]
    message = read.message(reply)
    assert (message.content, message.thinking, message.tool_calls) == ("Not much.", "Hm.", (CALL,))
    assert (message.state, message.finish_reason, message.model) == ("complete", "tool_calls", "m")
    assert (message.figures, message.thinking_seconds) == (FIGURES, 0.75)
    assert message.parent == question


def test_a_search_finds_what_is_inside_a_word(library: Library) -> None:
    conversation, question = asked(library, 'Explain "concatenation", 你好世界')
    for text in ("CATE", '"concatenation", 你好', "好世", "你", "at cat"):
        (hit,) = [hit for hit in library.search(text) if hit.message]
        assert (hit.conversation, hit.message) == (conversation, question)
    assert not library.search("cat NOT concatenation")


def test_deleting_is_undone(library: Library) -> None:
    conversation, _ = asked(library)
    library.delete(conversation)
    assert not library.list()
    assert not library.search("What")
    with pytest.raises(Qwen35Error, match="was deleted"):
        library.conversation(conversation)
    library.undelete(conversation)
    assert [summary.id for summary in library.list()] == [conversation]


def test_a_second_window_reads_only(library: Library) -> None:
    conversation, _ = asked(library)
    assert library.claim(conversation)
    with Library(library.folder) as other:
        assert not other.claim(conversation)
        assert other.conversation(conversation).path()
        library.release(conversation)
        assert other.claim(conversation)


def test_drafts_survive_the_window(library: Library) -> None:
    conversation, _ = asked(library)
    library.save_draft(conversation, "and")
    library.save_draft(None, "new")
    with Library(library.folder) as other:
        assert other.draft(conversation) == "and"
        assert other.draft(None) == ""
    library.close()
    with Library(library.folder) as other:
        assert other.draft(None) == "new"
