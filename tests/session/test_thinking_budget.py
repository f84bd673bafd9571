"""A spent budget closes the thinking: the reply goes on as if the model had written the text."""

from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode_group import DecodeGroup
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.thinking_budget import CLOSING, ThinkingBudget
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.reply_end import ReplyEnd
from tests.session.durable_child import done_of
from tests.session.scripted import reply_with
from tests.session.test_drafting import DRAFTERS, assert_ends

QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
SAMPLED: dict[str, Any] = {"temperature": 0.9, "presence_penalty": 0.6, "top_k": 0, "seed": 4}
BUDGET, ANSWER = 6, 6
CLOSED = CLOSING.strip().removesuffix("</think>").strip()


def turn_of(model: Model, budget: int | None, **options: Any) -> Turn:
    given = ReplyOptions.of({"thinking": True, "thinking_budget": budget} | options)
    turn = model.turn(QUESTION, model.make_cache(), given)
    turn.eos = frozenset()
    return turn


def closing_of(model: Model) -> list[int]:
    budget = ThinkingBudget.of(0, model.tokenizer)
    assert budget is not None
    return list(budget.closing)


@pytest.fixture(scope="module")
def closed(model: Model) -> Turn:
    """A turn that is closed within its thinking, without drafts."""
    turn = turn_of(model, BUDGET, **SAMPLED, max_tokens=BUDGET + len(closing_of(model)) + ANSWER)
    done_of(turn.run())
    return turn


def test_thinking_is_closed_once_its_budget_is_spent():
    with load("demo", mtp="off") as demo:
        options: dict[str, Any] = {"thinking": True, "temperature": 0.0}
        free = demo.generate(QUESTION, **options)
        spent = free.usage.reasoning_tokens
        assert spent is not None
        within = demo.generate(QUESTION, thinking_budget=spent, **options)
        assert (within.text, within.thinking) == (free.text, free.thinking)
        # All but the closing tag.
        reply = demo.generate(QUESTION, thinking_budget=spent - 1, **options)
        assert reply.thinking.split() == [*free.thinking.split(), *CLOSED.split()]
        assert reply.text
        assert reply.finish_reason == "stop"
        assert reply.usage.reasoning_tokens == spent - 1 + len(closing_of(demo))
        answer = demo.tokenizer.encode(reply.text)
        assert reply.usage.reply_tokens == reply.usage.reasoning_tokens + len(answer) + 1


@pytest.mark.parametrize("budget", [0, BUDGET])
def test_every_token_is_drawn_as_in_a_reply_that_the_model_wrote(model: Model, budget: int):
    """Against a draw from the logits of a fresh prefill, at the same position of the reply."""
    turn = turn_of(model, budget, **SAMPLED)
    turn.max_tokens = budget + len(closing_of(model)) + ANSWER
    done = done_of(turn.run())
    ids = turn.reply_ids
    assert ids[budget : budget + len(closing_of(model))] == closing_of(model)
    sampler = Sampler(turn.sampling, model.network.config.vocab_size, SAMPLED["seed"])
    for at in [*range(budget), *range(budget + len(closing_of(model)), len(ids))]:
        logits = mx.array(model.logits([*turn.prompt, *ids[:at]])[-1:])
        assert ids[at] == sampler(logits, mx.array(ids[:at], mx.int32), at).item()
    assert done.usage.reasoning_tokens == budget + len(closing_of(model))


@pytest.mark.parametrize("drafter", ["1 right", "2 right", "6 right", "copies", "the head's own"])
def test_drafts_change_nothing(model: Model, closed: Turn, drafter: str):
    turn = turn_of(model, BUDGET, **SAMPLED, max_tokens=closed.max_tokens)
    turn.drafter = DRAFTERS[drafter](model, turn.cache, closed.reply_ids)
    done_of(turn.run())
    assert turn.content == closed.content
    assert_ends(model, turn, closed, len(closed.reply_ids))


def test_the_closing_text_waits_for_the_end_of_a_character(model: Model):
    """The small model writes random bytes, so thinking often ends within one."""
    closing, waited = closing_of(model), 0
    for budget in range(1, 13, 3):
        turn = turn_of(model, budget, **SAMPLED, max_tokens=budget + 20 + len(closing))
        done_of(turn.run())
        ids = turn.reply_ids
        start = next(i for i in range(budget, len(ids)) if ids[i : i + len(closing)] == closing)
        ends = []
        decoder = model.tokenizer.stream()
        for token in ids[:start]:
            decoder.push(token)
            ends.append(not decoder.incomplete)
        assert ends[-1]
        assert not any(ends[budget - 1 : -1])
        waited += start > budget
    assert waited


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [0, BUDGET])
def test_an_answer_after_the_close_keeps_to_its_format(model: Model, budget: int, seed: int):
    schema = {"type": "boolean"}
    reply = model.generate(
        QUESTION,
        seed=seed,
        thinking=True,
        thinking_budget=budget,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert reply.text in ("true", "false")
    assert CLOSED in reply.thinking


def test_replies_in_shared_passes_are_closed_one_by_one(model: Model, closed: Turn):
    """Also where one joins the others after a start by itself, with drafts."""
    group = DecodeGroup(model.network)
    turns = [
        turn_of(model, budget, **SAMPLED | {"seed": seed}, max_tokens=closed.max_tokens)
        for budget, seed in ((BUDGET, 4), (BUDGET + 2, 4), (None, 7))
    ]
    alone = [turn_of(model, BUDGET + 2, **SAMPLED, max_tokens=closed.max_tokens)]
    alone.append(turn_of(model, None, **SAMPLED | {"seed": 7}, max_tokens=closed.max_tokens))
    for turn in alone:
        done_of(turn.run())
    for turn in turns:
        turn.group = group
    running = [turn.run() for turn in turns]
    while len(turns[0].reply_ids) < 3:
        next(running[0])
    group.wanted = True
    while running:
        for events in list(running):
            if next(events, None) is None:
                running.remove(events)
    for turn, want in zip(turns, [closed, *alone], strict=True):
        assert turn.reply_ids == want.reply_ids
        assert turn.cache.offset == len(turn.prompt) + len(turn.reply_ids)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_cancel_around_the_close_leaves_the_tokens_that_are_in_the_cache(model: Model, step: int):
    turn = turn_of(model, BUDGET, temperature=0.0)
    events = turn.run()
    while len(turn.reply_ids) < BUDGET + (step > 1) * len(closing_of(model)):
        next(events)
    for _ in range(step):
        next(events)
    events.close()
    ids = [*turn.prompt, *turn.reply_ids]
    assert turn.cache.offset == len(ids)
    found = model.network.logits(model.network(mx.array([[5]]), turn.cache))[0, 0]
    assert mx.allclose(found, mx.array(model.logits([*ids, 5])[-1]), atol=1e-3).item()


def test_a_reply_without_thinking_is_left_alone(model: Model):
    free = model.generate(QUESTION, thinking=False, temperature=0.0, max_tokens=9)
    reply = model.generate(
        QUESTION, thinking=False, temperature=0.0, max_tokens=9, thinking_budget=0
    )
    assert (reply.text, reply.usage.reasoning_tokens) == (free.text, 0)
    assert model.complete("<think>", max_tokens=3).usage.reasoning_tokens == 0


def test_thinking_that_the_model_opens_itself_has_a_budget(model: Model, monkeypatch):
    reply_with(monkeypatch, model, "<think>one two three four five six")
    reply = model.generate(QUESTION, thinking=False, thinking_budget=3)
    assert reply.thinking.endswith(f"\n\n{CLOSED}")
    assert reply.thinking.count(CLOSED) == 1


def test_no_text_is_forced_that_would_leave_no_room_for_an_answer(model: Model):
    room = BUDGET + len(closing_of(model))
    cut = turn_of(model, BUDGET, temperature=0.0, max_tokens=room)
    assert done_of(cut.run()).finish_reason == "length"
    assert CLOSED not in cut.content.thinking
    turn = turn_of(model, BUDGET, temperature=0.0, max_tokens=room + 1)
    assert done_of(turn.run()).finish_reason == "length"
    assert CLOSED in turn.content.thinking
    assert len(turn.reply_ids) == room + 1


@pytest.mark.parametrize("stop", ["\n\n", "limited time", "n directly now.\n</think>"])
def test_a_stop_string_does_not_end_the_closing_text(model: Model, closed: Turn, stop: str):
    """Not even one that begins before it, or ends in it."""
    thought = model.tokenizer.decode(closed.reply_ids[:BUDGET])
    turn = turn_of(model, BUDGET, **SAMPLED, max_tokens=closed.max_tokens)
    turn.end = ReplyEnd([stop, f"{thought[-1:]}\n\nConsid", closed.content.text[2:]])
    assert done_of(turn.run()).finish_reason == "stop"
    assert turn.content.thinking == closed.content.thinking
    assert turn.content.text == closed.content.text[:2]


@pytest.mark.parametrize("mtp", ["off", 3])
def test_a_chat_goes_on_after_a_close_and_a_restart(model_folder, tmp_path, mtp: str | int):
    """The settings are stored, and each turn is that of a fresh prefill."""
    kept: dict[str, Any] = {"thinking": True, "thinking_budget": BUDGET, "temperature": 0.0}
    number = None
    for question in ("What is 17 + 25?", "And 30 + 12?"):
        with load(model_folder, mtp=mtp) as model, Library(tmp_path) as library:
            tokens = BUDGET + len(closing_of(model)) + ANSWER
            given = kept if number is None else {}
            chat = Chat(model, library=library, conversation=number, **given)
            messages = [*chat.conversation.for_template(), {"role": "user", "content": question}]
            done = done_of(chat.send(question, max_tokens=tokens))
            *_, fresh = model.stream(messages, max_tokens=tokens, **kept)
            assert isinstance(fresh, Done)
            assert done.message == fresh.message
            assert CLOSED in done.message["reasoning_content"]
            assert (done.usage.cached_tokens > 0) == (number is not None)
            assert chat.messages[-1].usage == done.usage
            number = chat.conversation.id
            chat.close()
    with Library(tmp_path) as library:
        assert number is not None
        stored = library.conversation(number)
        assert stored.settings.thinking_budget == BUDGET


def test_minus_one_lifts_the_budget_of_a_chat_for_a_turn(model: Model):
    chat = Chat(model, thinking=True, thinking_budget=0, temperature=0)
    room = len(closing_of(model)) + ANSWER
    free = done_of(chat.send("Hi", max_tokens=room, thinking_budget=-1))
    assert CLOSED not in free.message["reasoning_content"]
    kept = done_of(chat.retry(max_tokens=room))
    assert CLOSED in kept.message["reasoning_content"]


@pytest.mark.parametrize("budget", [-2, 1.5, True, "5"])
def test_a_budget_that_is_no_count_is_named(model: Model, budget: Any):
    with pytest.raises(Qwen35Error, match="thinking_budget is"):
        model.generate(QUESTION, thinking_budget=budget)
