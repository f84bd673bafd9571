"""One conversation in several windows: one writes, the others read and are told so."""

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


def test_a_turn_that_another_window_ends_while_this_one_opens_is_seen(model, library, monkeypatch):
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=4))
    number = chat.conversation.id
    chat.close()
    real = library.claim

    def claim(conversation: int) -> bool:
        """The other window lets go just before."""
        with Library(library.folder) as other:
            theirs = Chat(model, library=other, conversation=conversation)
            done_of(theirs.send("Question 2", max_tokens=4))
        return real(conversation)

    monkeypatch.setattr(library, "claim", claim)
    again = Chat(model, library=library, conversation=number)
    assert not again.read_only
    assert [m.content for m in again.messages[::2]] == ["Question 1", "Question 2"]


def test_a_conversation_that_is_not_there_is_not_held(model, library):
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
def test_what_only_the_other_window_may_do_says_so(model, library, act: Any):
    """Whatever it is about: messages that this window has not seen yet, too."""
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
        assert not other.claim(chat.conversation.id)  # which lets nothing go


def test_half_a_character_is_the_same_here_and_in_the_library(model, library):
    """Broken pastes bring surrogates; a restart has to read the same tokens."""
    chat = Chat(model, library=library, **OPTIONS)
    done_of(chat.send("a\ud83d\ude00b \ud800 \0 end", max_tokens=4))
    assert chat.messages[0].content == "a😀b \ufffd \0 end"
    assert library.conversation(chat.conversation.id).path() == chat.messages
    done_of(chat.edit(chat.messages[0].id, "half \udc00", max_tokens=4))
    assert chat.messages[0].content == "half \ufffd"
