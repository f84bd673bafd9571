"""A reply that repeats itself without end is ended, says so, and leaves a state to go on from."""

import pytest

from qwen35_mlx.generation import repetition
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import turn as turn_module
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.chat_settings import turn_options
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.turn import Turn
from tests.session.durable_child import done_of
from tests.session.scripted import reply_with
from tests.session.test_drafting import DRAFTERS, assert_ends

HI = [{"role": "user", "content": "Hi"}]
SPAN, TOKENS = 64, 24


@pytest.fixture
def looping(model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that writes one line over and over, and is found out soon."""
    monkeypatch.setattr(repetition, "SPANS", (SPAN,))
    monkeypatch.setattr(repetition, "RICH", 1)
    reply_with(monkeypatch, model, "la la\n" * 40)
    return model


@pytest.mark.parametrize("call", ["generate", "complete", "send"])
def test_a_loop_ends_the_reply(looping: Model, call: str):
    if call == "send":
        done = done_of(Chat(looping, thinking=False).send("Hi"))
    else:
        done = getattr(looping, call)("Hi" if call == "complete" else HI)
    assert done.finish_reason == "repetition"
    assert done.usage.reply_tokens == SPAN


@pytest.mark.parametrize("call", ["generate", "complete", "send"])
def test_the_guard_can_be_switched_off(looping: Model, call: str):
    if call == "send":
        done = done_of(Chat(looping, thinking=False, repetition_guard=False).send("Hi"))
    else:
        prompt = "Hi" if call == "complete" else HI
        done = getattr(looping, call)(prompt, repetition_guard=False)
    assert done.finish_reason == "stop"
    assert done.usage.reply_tokens > SPAN


def test_a_turn_decides_before_its_chat():
    kept = ChatSettings(repetition_guard=False)
    assert turn_options(kept, None, ReplyOptions()).repetition_guard is False
    assert turn_options(kept, None, ReplyOptions(repetition_guard=True)).repetition_guard is True


def test_the_reason_is_stored_and_exported(looping: Model, tmp_path):
    with Library(tmp_path) as library:
        chat = Chat(looping, library=library, thinking=False)
        done_of(chat.send("Hi"))
        number = chat.conversation.id
        chat.close()
        stored = library.conversation(number)
    assert stored.messages[-1].finish_reason == "repetition"
    assert stored.messages[-1].state == "complete"
    assert from_json(to_json(stored)).messages[-1].finish_reason == "repetition"


def turn_of(model: Model, drafter: str | None, reply: list[int]) -> Turn:
    options = ReplyOptions(max_tokens=TOKENS, seed=5, sampling={"temperature": 0.8})
    turn = model.turn(HI, model.make_cache(), options)
    turn.eos = frozenset()
    turn.drafter = None if drafter is None else DRAFTERS[drafter](model, turn.cache, reply)
    return turn


@pytest.mark.parametrize("tokens", [8, 11])
@pytest.mark.parametrize("drafter", ["6 right", "copies"])
def test_it_ends_within_a_pass_of_drafts(model: Model, monkeypatch, drafter: str, tokens: int):
    plain = turn_of(model, None, [])
    done_of(plain.run())
    turn = turn_of(model, drafter, plain.reply_ids)
    monkeypatch.setattr(turn_module, "repeats_without_end", lambda ids: len(ids) == tokens)
    assert done_of(turn.run()).finish_reason == "repetition"
    assert_ends(model, turn, plain, tokens)
