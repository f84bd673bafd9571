"""Template arguments: part of every rendering of a chat, stored with it, refused if not read."""

import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.chat_settings import merged_settings, turn_options
from qwen35_mlx.session.events import Done, Notice
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from tests.session.durable_child import done_of
from tests.session.scripted import reply_with

OFF = {"enable_thinking": False}
HI = [{"role": "user", "content": "Hi"}]
TEMPLATES = Path(__file__).parents[1] / "templates"


@pytest.fixture(scope="module")
def effort_model(model_folder: Path, tmp_path_factory) -> Generator[Model]:
    """The small random model with a template that reads `reasoning_effort`."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("effort") / "model")
    shutil.copy(TEMPLATES / "qwen3_8.jinja", folder / "chat_template.jinja")
    with load(folder) as model:
        yield model


def test_arguments_are_listed_and_change_the_prompt(effort_model: Model):
    assert effort_model.template is not None
    assert effort_model.template.arguments == ("enable_thinking", "reasoning_effort")
    low = effort_model.ids(HI, template_arguments={"reasoning_effort": "low"})
    assert "Think briefly." in effort_model.tokenizer.decode(low)
    assert effort_model.ids(HI, reasoning_effort="low") == low != effort_model.ids(HI)
    closed = effort_model.ids(HI, template_arguments={"enable_thinking": False})
    assert closed == effort_model.ids(HI, thinking=False) != effort_model.ids(HI)


def test_an_argument_that_the_template_does_not_read_is_refused_and_nothing_is_added(model: Model):
    chat = Chat(model)
    for options in ({"template_arguments": {"effort": 1}}, {"reasoning_effort": "low"}):
        with pytest.raises(Qwen35Error, match=r"does not read the argument '.*effort', it reads"):
            chat.send("Hi", **options)  # type: ignore[arg-type]
    assert chat.messages == ()


def test_a_chat_is_not_made_with_an_argument_that_the_template_does_not_read(model: Model):
    with pytest.raises(Qwen35Error, match="does not read the argument 'effort'"):
        Chat(model, template_arguments={"effort": 1})


def test_an_argument_of_the_settings_that_is_not_read_is_left_out_with_one_notice(
    model: Model, tmp_path, monkeypatch
):
    monkeypatch.setattr(model, "arguments_left_out", set())
    arguments = {"reasoning_effort": "low", **OFF}
    with Library(tmp_path) as library:
        number = library.create(settings=ChatSettings(template_arguments=arguments))
        chat = Chat(model, library=library, conversation=number)
        turns = [list(chat.send("Hi", max_tokens=2)) for _ in range(3)]
        notices = [[e.message for e in events if isinstance(e, Notice)] for events in turns]
        done = turns[0][-1]
        assert isinstance(done, Done)
        assert done.usage.prompt_tokens == model.count(HI, template_arguments=OFF)
        ((line,), *others) = notices
        assert line.startswith("the settings have the template argument 'reasoning_effort', which ")
        assert others == [[], []]
        # Another conversation with this model says it no more, and the settings keep it.
        another = Chat(model)
        another.configure(ChatSettings(template_arguments=arguments))
        assert not any(isinstance(e, Notice) for e in another.send("Hi", max_tokens=2))
        assert another.settings.template_arguments == arguments
        reply_with(monkeypatch, model, "Said hi.")
        list(chat.compact())
        chat.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template_arguments": "x"}, "template_arguments is 'x': give a mapping"),
        ({"template_arguments": {1: 2}}, "give a mapping of names to values"),
        ({"template_arguments": {"a": {1}}}, "the template argument a is of type set"),
        ({"reasoning_effort": 3}, "reasoning_effort is 3: give a string"),
        (
            {"reasoning_effort": "low", "template_arguments": {"reasoning_effort": "high"}},
            "reasoning_effort is 'low', and the template argument of that name is 'high'",
        ),
    ],
)
def test_an_odd_argument_is_named(options: Mapping[str, Any], words: str):
    with pytest.raises(Qwen35Error) as caught:
        ReplyOptions.of(options)
    assert words in str(caught.value)


def test_the_effort_is_a_template_argument():
    given = {"reasoning_effort": "low", "template_arguments": {"a": 1, "reasoning_effort": "low"}}
    assert ReplyOptions.of(given).template_arguments == {"a": 1, "reasoning_effort": "low"}
    assert ReplyOptions.of({"reasoning_effort": None}).template_arguments == {}


def test_a_chat_renders_all_its_prompts_and_anchors_with_them(effort_model: Model, tmp_path):
    """Another effort is another prompt: only its own prompts go on from its states."""
    number = None
    for turn in range(3):
        with Library(tmp_path) as library:
            options: dict[str, Any] = {} if turn else {"reasoning_effort": "low", "temperature": 0}
            chat = Chat(effort_model, library=library, conversation=number, **options)
            messages = [*chat.conversation.for_template(), *HI]
            done = done_of(chat.send("Hi", max_tokens=6))
            *_, fresh = effort_model.stream(
                messages, reasoning_effort="low", temperature=0, max_tokens=6
            )
            assert isinstance(fresh, Done)
            assert done.message == fresh.message
            assert done.usage.prompt_tokens == effort_model.count(messages, reasoning_effort="low")
            if turn:  # all that the last turn read
                read = effort_model.ids(messages[:-2], reasoning_effort="low", reply=False)
                assert done.usage.cached_tokens >= len(read)
            number = chat.conversation.id
            chat.close()
    with Library(tmp_path) as library:
        assert number is not None
        kept = library.conversation(number).settings
        assert kept.template_arguments == {"reasoning_effort": "low"}


def test_a_summary_is_written_without_thinking_whatever_the_argument(effort_model, monkeypatch):
    arguments = {"enable_thinking": True, "reasoning_effort": "low"}
    chat = Chat(effort_model, template_arguments=arguments, temperature=0.0)
    for _ in range(3):
        done_of(chat.send("Hi", max_tokens=5))
    reply_with(monkeypatch, effort_model, "Said hi.")  # within thinking, it would be none
    list(chat.compact())
    assert chat.messages[0].content.startswith("Summary of the conversation")


@pytest.mark.parametrize(
    ("given", "thinking", "arguments"),
    [
        ({}, True, {"a": 1}),
        ({"thinking": False}, False, {"a": 1}),
        (
            {"template_arguments": {"enable_thinking": False}},
            None,
            {"a": 1, "enable_thinking": False},
        ),
        ({"template_arguments": {"a": 2, "b": 3}}, True, {"a": 2, "b": 3}),
    ],
)
def test_what_is_given_replaces_what_is_kept(given, thinking, arguments):
    kept = ChatSettings(thinking=True, template_arguments={"a": 1}, thinking_budget=5)
    for merged in (
        turn_options(kept, None, ReplyOptions(**given)),
        merged_settings(kept, ChatSettings(**given)),
    ):
        assert (merged.thinking, merged.template_arguments) == (thinking, arguments)
        assert merged.thinking_budget == 5


def test_thinking_replaces_the_kept_argument_that_means_the_same():
    kept = ChatSettings(template_arguments={"enable_thinking": True, "a": 1})
    turn = turn_options(kept, None, ReplyOptions(thinking=False, thinking_budget=0))
    assert turn == ReplyOptions(thinking=False, thinking_budget=0, template_arguments={"a": 1})
