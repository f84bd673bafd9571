"""Conversations that survive their process: turns stay cheap, and no message is lost."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import snapshots
from qwen35_mlx.prompt_cache.snapshots import common_prefix_length
from qwen35_mlx.session import cached_turn, recorder
from qwen35_mlx.session.anchors import PromptAnchors
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done, Notice, PrefillProgress, Titled, TurnStarted
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from tests.session.durable_child import OPTIONS, done_of, fresh_logits, logits_after, messages_with
from tests.session.scripted import reply_with


@pytest.fixture
def own(model_folder) -> Model:
    """A model whose disk cache no other test has opened."""
    return load(model_folder)


@pytest.fixture
def library(tmp_path):
    with Library(tmp_path / "library") as library:
        yield library


def child(model: Path, folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.session.durable_child", str(model), str(folder)]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        **options,
    )


def finished(process: subprocess.Popen[str]) -> Any:
    """The last line that a child printed, parsed."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("name", ["the demo model", "a scripted one"])
def test_turns_with_thinking_prefill_what_is_new_and_equal_a_fresh_prefill(
    name, own, library, monkeypatch
):
    """Eight of the small model, which is told its replies, and a few of one that thinks."""
    scripted = name == "a scripted one"
    model, turns = (own, 8) if scripted else (qwen35_mlx.load("demo"), 3)
    chat = Chat(model, library=library, thinking=True, temperature=0.0)
    computed = new = 0
    before: list[int] = []
    for turn in range(turns):
        question = f"{17 + turn} + {60 - turn}?"
        messages = messages_with(chat, question)
        prompt = model.render(messages, thinking=True)
        new += len(prompt) - common_prefix_length(prompt, before)
        before = prompt
        with monkeypatch.context() as patch:
            if scripted:
                reply_with(patch, model, f"so\n</think>\n\n{turn}.")
            done = done_of(chat.send(question, max_tokens=150))
        assert done.message["reasoning_content"]
        assert done.message["content"]
        computed += done.usage.prompt_tokens - done.usage.cached_tokens
    assert computed <= 1.1 * new
    question = "And 1 + 2?"
    expected = fresh_logits(model, chat, question)
    np.testing.assert_allclose(logits_after(model, chat, question)[0], expected, atol=1e-4)
    options = {"thinking": True, "temperature": 0.0, "max_tokens": 60}
    fresh = done_of(model.stream(messages_with(chat, question), **options))
    assert done_of(chat.send(question, max_tokens=60)).message == fresh.message


def test_each_of_many_turns_equals_a_fresh_prefill(own, library):
    """The logits of every turn, and some replies, of a small model that is quick to prefill."""
    chat = Chat(own, library=library, **OPTIONS)
    for turn in range(12):
        question = f"{turn}?"
        messages = messages_with(chat, question)
        if turn:
            fresh = fresh_logits(own, chat, question)
            np.testing.assert_allclose(logits_after(own, chat, question)[0], fresh, atol=1e-4)
        done = done_of(chat.send(question, max_tokens=6))
        if turn % 4 == 3:
            assert done.message == done_of(own.stream(messages, max_tokens=6, **OPTIONS)).message
    assert chat.context_used > 180


def test_another_process_goes_on_with_the_same_bits(own, model_folder, library, tmp_path):
    chat = Chat(own, library=library, system="Be brief.", **OPTIONS)
    for turn in range(3):
        done_of(chat.send(f"Question {turn}", max_tokens=15))
    expected = logits_after(own, chat, "Question 9")
    number = chat.conversation.id
    chat.close()
    file = tmp_path / "logits.npy"
    replies = finished(
        child(model_folder, library.folder, "resume", str(number), "Question 9", str(file))
    )
    np.testing.assert_array_equal(np.load(file), expected)

    def here(chat: Chat) -> str:
        reply = done_of(chat.send("Question 9", max_tokens=10)).message["content"]
        chat.branch(chat.messages[-3].id)
        return reply

    # The same bits from memory, after a branch, and after a turn of another conversation.
    chat = Chat(own, library=library, conversation=number)
    chat.branch(chat.messages[-3].id)
    np.testing.assert_array_equal(logits_after(own, chat, "Question 9"), expected)
    assert [here(chat)] == replies
    np.testing.assert_array_equal(logits_after(own, chat, "Question 9"), expected)
    done_of(Chat(own, library=library, **OPTIONS).send("Something else", max_tokens=20))
    np.testing.assert_array_equal(logits_after(own, chat, "Question 9"), expected)


def test_tool_calls_and_thinking_are_there_after_a_restart(own, library):
    chat = Chat(own, library=library, **OPTIONS)
    done_of(chat.send("Question 1", max_tokens=5))
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}
    said = {"role": "assistant", "content": "", "reasoning_content": "so", "tool_calls": [call]}
    reply = replace(
        chat.messages[-1],
        content="",
        thinking="so",
        tool_calls=(call,),
        finish_reason="tool_calls",
        usage=None,
        thinking_seconds=1.0,
    )
    chat._transcript.save(reply)
    sent = done_of(chat.send([{"role": "tool", "content": "2"}], max_tokens=5))
    before = chat.conversation
    chat.close()
    again = Chat(own, library=library, conversation=before.id)
    assert again.conversation.for_template() == before.for_template()
    assert again.conversation.for_template()[1] == said
    assert sent.message["content"] == again.messages[-1].content


def test_a_reply_continues_where_the_next_prompt_begins_with_it():
    probed: list[str] = []

    def ids(messages: Sequence[Mapping[str, Any]]) -> list[int]:
        probed.append(messages[-1]["role"])
        return [*range(10)]

    prompts = PromptAnchors(ids)
    called = {"role": "assistant", "tool_calls": [{}]}
    assert prompts.continues([called], [*range(7)])
    assert not prompts.continues([{"role": "assistant"}], [0, 1, 3])
    assert probed == ["tool", "user"]


def test_a_system_prompt_is_prefilled_once_for_all_conversations(own, library, monkeypatch):
    monkeypatch.setattr(cached_turn, "MIN_SHARED_TOKENS", 50)
    system = "Some long instructions. " * 12
    done_of(Chat(own, library=library, system=system, **OPTIONS).send("Question 1", max_tokens=3))
    other = Chat(own, library=library, system=system, **OPTIONS)
    done = done_of(other.send("Nothing alike", max_tokens=3))
    tokens = own.count([{"role": "system", "content": system}, {"role": "user", "content": ""}])
    assert tokens - 20 < done.usage.cached_tokens < tokens


def test_a_model_keeps_the_states_of_each_library_in_the_librarys_folder(own, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        with Library(folder) as library:
            chat = Chat(own, library=library, **OPTIONS)
            done_of(chat.send(f"Question of {folder.name}", max_tokens=3))
            chat.close()
    own.close()
    one, two = ({f.name for f in folder.rglob("*.state.safetensors")} for folder in folders)
    assert one
    assert two
    assert not one & two


def test_a_cancelled_prefill_goes_on_where_it_was(own, library, monkeypatch):
    monkeypatch.setattr(cached_turn, "CHECKPOINT_TOKENS", 64)
    long = "word " * 150
    chat = Chat(own, library=library, **OPTIONS)
    for event in chat.send(long, max_tokens=3):
        if isinstance(event, PrefillProgress) and event.done >= 200:
            break
    chat.close()
    assert chat.messages == ()
    done = done_of(Chat(own, library=library, **OPTIONS).send(long, max_tokens=3))
    assert 192 <= done.usage.cached_tokens < done.usage.prompt_tokens
    fresh = done_of(own.stream(_user(long), max_tokens=3, **OPTIONS))
    assert done.message == fresh.message


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_question_is_on_disk_before_the_first_event_and_the_reply_grows(
    own, library, monkeypatch
):
    monkeypatch.setattr(recorder, "SAVE_SECONDS", 0.0)
    chat = Chat(own, library=library, temperature=0.0, presence_penalty=0.5)
    events = chat.send("Question 1", max_tokens=40)
    started = next(events)
    assert isinstance(started, TurnStarted)
    with Library(library.folder) as other:
        assert other.message(started.user).content == "Question 1"
        assert other.message(started.reply).state == "partial"
        assert next(events) == Titled(started.conversation, "Question 1")
        shown = ""
        for event in events:
            if isinstance(event, Answer):
                shown += event.text
                assert other.message(started.reply).content == shown.strip()
        assert shown.strip()
        assert other.message(started.reply).state == "complete"


def test_a_full_disk_ends_no_reply_and_is_reported(own, library, monkeypatch):
    chat = Chat(own, library=library, **OPTIONS)
    monkeypatch.setattr(recorder, "SAVE_SECONDS", 0.0)

    def full(*_: Any, **__: Any) -> None:
        raise Qwen35Error("the disk is full: free some space")

    monkeypatch.setattr(library, "save", full)
    monkeypatch.setattr(snapshot_file, "write", _no_space)
    events = list(chat.send("Question 1", max_tokens=20))
    assert isinstance(events[-1], Done)
    lines = [event.message for event in events if isinstance(event, Notice)]
    assert any("is kept until it is: the disk is full" in line for line in lines)
    assert len(lines) <= 3
    own.open_states(library.folder).flush()
    lines += chat.notices()
    assert sum("state cannot be saved" in line for line in lines) == 1
    assert chat.messages[-1].content == events[-1].message["content"]
    monkeypatch.undo()  # so that the library can close


def _no_space(*_: Any) -> int:
    raise OSError(28, "No space left on device")


def test_a_question_that_cannot_be_saved_is_not_answered(own, library, monkeypatch):
    chat = Chat(own, library=library, **OPTIONS)

    def full(*_: Any, **__: Any) -> None:
        raise Qwen35Error("the disk is full: free some space")

    monkeypatch.setattr(library, "add_message", full)
    with pytest.raises(Qwen35Error, match="disk is full"):
        list(chat.send("Question 1"))
    assert chat.messages == ()


def test_open_finds_a_conversation_by_title_with_its_settings(own, library):
    chat = Chat(own, library=library, system="Be brief.", temperature=0.0, top_k=3)
    done_of(chat.send("My name is Ada", max_tokens=3))
    chat.close()
    again = Chat.open(own, "my name", library=library)
    assert again.settings == chat.settings
    assert again.messages == chat.messages
    again.close()
    other = Chat.open(own, again.conversation.id, library=library, thinking=False, top_k=5)
    assert other.settings.system == "Be brief."
    assert other.settings.thinking is False
    assert other.settings.sampling == {"temperature": 0.0, "top_k": 5}
    with pytest.raises(Qwen35Error, match="no conversation is called 'Bob'"):
        Chat.open(own, "Bob", library=library)


def test_checkpoints_are_at_ends_of_chunks():
    assert snapshots.CHECKPOINT_TOKENS % 2048 == 0  # the largest chunk, a multiple of all others
