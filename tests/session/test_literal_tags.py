"""Tags that a reply, a file or a tool only mentions: on the screen, in the library, and in what the
model reads at the next turn, nothing of the text around them is lost."""

from pathlib import Path

import pytest
from qwen35_chat.attachments import Attached, Attachments, attached, taken_apart

from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from tests.session.scripted import reply_with

TAGS = ["</think>", "<think>", "<think>\n</think>", "<|im_end|>", "<|im_start|>user", "<tool_call>"]


def read_next(model: Model, chat: Chat) -> str:
    """What the model reads at the next turn."""
    messages = [*(message.for_template() for message in chat.messages), USER]
    return model.tokenizer.decode(model.prompt_ids(messages, ReplyOptions()))


USER = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize("thinking", [True, False])
def test_tags_that_a_reply_mentions_stay_text(
    model: Model, tmp_path: Path, monkeypatch, *, thinking: bool
) -> None:
    """The model spells them with other tokens than its own tags."""
    quote = model.tokenizer.control_tokens.quote
    thought = "\n".join(f"So {tag}." for tag in TAGS[:3])
    answer = "\n\n".join(f"A {tag}\nB." for tag in TAGS)
    begun = f"{quote(thought)}\n</think>\n\n" if thinking else ""
    with Library(tmp_path) as library:
        chat = Chat(model, library=library, thinking=thinking)
        reply_with(monkeypatch, model, begun + quote(answer))
        list(chat.send(f"What are {TAGS}?"))
        stored = library.conversation(1)
        reply = stored.path()[-1]
        assert reply.content == answer
        assert reply.thinking.strip() == (thought if thinking else "")
        assert answer in read_next(model, chat)
        assert f"What are {TAGS}?" in read_next(model, chat)
        imported = library.add_conversation(from_json(to_json(stored)))
        chat.close()
        again = Chat(model, library=library, conversation=imported, thinking=thinking)
        assert again.messages[-1].content == answer
        assert answer in read_next(model, again)
        again.close()


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_thinking_that_only_mentions_its_end_stays_thinking(
    model: Model, monkeypatch, cut: int
) -> None:
    literal = model.tokenizer.control_tokens.quote("</think>")
    chat = Chat(model, thinking=True)
    reply_with(monkeypatch, model, f"So {literal} ends it: {literal} and", drop=cut)
    list(chat.send("?"))
    assert chat.messages[-1].content == ""
    assert chat.messages[-1].thinking.startswith("So </think> ends it")


def test_an_end_at_once_is_an_end(model: Model, monkeypatch) -> None:
    for begun in ("", "\n", " <thi", "<think>", "é"):
        chat = Chat(model, thinking=True)
        reply_with(monkeypatch, model, f"{begun}</think>\n\nYes </think> it is")
        list(chat.send("?"))
        assert chat.messages[-1].content == "Yes </think> it is"
        assert chat.messages[-1].thinking == begun.replace("<think>", "").strip(" \n")


ENDS = ["</file>", "a\n</file>\nb", "</file>\n", "</FILE>", "</file-2>", "x\n</file-2>\n</file>"]
TEXTS = [*ENDS, *TAGS, '<file name="b">\nb\n</file>', "\n</file>", "</file"]


def test_attached_files_survive_the_next_turn(model: Model, tmp_path: Path, monkeypatch) -> None:
    files = [Attached(f"{n}.txt", f"first\n{text}\nlast") for n, text in enumerate(TEXTS)]
    for file in files:
        (tmp_path / file.name).write_text(file.text, encoding="utf-8")
    words = " ".join(f"@{file.name}" for file in files)
    chat = Chat(model)
    reply_with(monkeypatch, model, "I see.")
    list(chat.send(attached(words, tmp_path).text))
    assert taken_apart(chat.messages[0].content) == (words, files)
    read = read_next(model, chat)
    for file in files:
        assert f"\n{file.text}\n</" in read
        assert file.tagged in read
        # The end of the file is the first line that is its tag's.
        tag = file.tagged.partition(" ")[0].removeprefix("<")
        assert f"</{tag}>" not in file.text


def test_what_follows_a_file_is_not_part_of_it() -> None:
    message = Attachments("m", (Attached("a", "x\n</file>"), Attached("b", "</file-2>"))).text
    assert taken_apart(message)[1] == [Attached("a", "x\n</file>"), Attached("b", "</file-2>")]


def test_tags_in_an_imported_reply_stay_text(model: Model) -> None:
    """Such as one of another program, which has no thinking apart from the text."""
    text = " b\n".join(TAGS)
    messages = (Message(1, None, "user", "?"), Message(2, 1, "assistant", f"a {text} b"))
    chat = Conversation(0, "", messages, 2)
    messages = [*chat.for_template(), USER]
    read = model.tokenizer.decode(model.prompt_ids(messages, ReplyOptions()))
    assert f"a {text} b" in read
