"""One conversation in several windows: one writes, the others are read-only."""

from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from tests.session.durable_child import OPTIONS, done_of


@pytest.fixture
def library(tmp_path: Path):
    with Library(tmp_path / "library") as library:
        yield library


def test_a_turn_finished_by_another_window_while_opening_is_included(model, library, monkeypatch):
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=4))
    number = chat.conversation.id
    chat.close()
    real = library.claim

    def claim(conversation: int) -> bool:
        """Another window finishes a turn just before."""
        with Library(library.folder) as other:
            theirs = Chat(model, library=other, conversation=conversation)
            done_of(theirs.send("Question 2", max_tokens=4))
        return real(conversation)

    monkeypatch.setattr(library, "claim", claim)
    again = Chat(model, library=library, conversation=number)
    assert not again.read_only
    assert [m.content for m in again.messages[::2]] == ["Question 1", "Question 2"]


def test_a_missing_conversation_is_not_claimed(model, library):
    with pytest.raises(Qwen35Error, match="not there"):
        Chat(model, library=library, conversation=7)
    with Library(library.folder) as other:
        assert other.claim(7)


@pytest.mark.parametrize(
    "act",
    [
        lambda chat, message: chat.send("Question"),
        lambda chat, message: chat.retry(message),
        lambda chat, message: chat.edit(message, "Question"),
        lambda chat, message: chat.branch(message),
        lambda chat, message: chat.compact(),
    ],
)
def test_a_read_only_chat_refuses_every_change(model, library, act: Any):
    """That goes for messages that this window has not seen yet, too."""
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=4))
    with Library(library.folder) as other:
        theirs = Chat(model, library=other, conversation=chat.conversation.id)
        assert theirs.read_only
        before = theirs.conversation
        done_of(chat.send("Question 2", max_tokens=4))
        for message in (before.leaf, chat.messages[-1].id):
            with pytest.raises(Qwen35Error, match="open in another window"):
                act(theirs, message)
        assert theirs.conversation == before
        theirs.close()
        assert not other.claim(chat.conversation.id)  # closing a read-only chat releases nothing


def test_surrogates_are_replaced_as_in_the_library(model, library):
    """Broken pastes contain surrogates; the tokens must be the same after a restart."""
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("a\ud83d\ude00b \ud800 \0 end", max_tokens=4))
    assert chat.messages[0].content == "a😀b \ufffd \0 end"
    assert library.conversation(chat.conversation.id).path() == chat.messages
    done_of(chat.edit(chat.messages[0].id, "half \udc00", max_tokens=4))
    assert chat.messages[0].content == "half \ufffd"
