"""Turns with drafts end where those without do: stop strings, end tokens, limits, cancels."""

from collections.abc import Callable, Generator, Sequence
from functools import cache as remembered
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.library.library import Library
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done, Reply
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.turn import Turn
from tests.session.durable_child import done_of

QUESTION = [{"role": "user", "content": "Count from one to ten."}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
TOKENS = 24
# In an answer without thinking, of four tokens, the last of which is this one of the reply.
STOP, STOPPED = ", 3,", 8
MORE = [5, 6]


class Right(MTPDrafts):
    """Drafts of the head, replaced by the very tokens of a reply."""

    def __init__(self, model: Model, cache: Cache, reply: Sequence[int]):
        super().__init__(model.network, cache)
        self._reply = reply

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        own = super().draft(count, sampler, reply, position)
        right = self._reply[position : position + count]
        return mx.array(right, mx.int32) + 0 * own[: len(right)]


class Copied(CopyDrafts):
    """Copies from a conversation in which the reply has stood before."""

    def __init__(self, reply: Sequence[int]):
        super().__init__()
        self._reply = reply

    def begin(self, prompt: Sequence[int], cached: int) -> None:
        super().begin([*self._reply, *prompt], cached)


def right_drafter(depth: int) -> Callable[..., Drafter]:
    return lambda model, cache, reply: Drafter(
        Right(model, cache, reply), None, PassCosts(), depth=depth
    )


def copying_drafter(model: Model, cache: Cache, reply: Sequence[int]) -> Drafter:
    costs = PassCosts()
    for count in (0, 2, 4, 7, 16):
        for _ in range(12):
            costs.add("copy" if count else "", count, 1e-6 if count else 1.0)
    return Drafter(None, Copied(reply), costs)


def own_drafter(model: Model, cache: Cache, reply: Sequence[int]) -> Drafter:
    return Drafter(MTPDrafts(model.network, cache), None, PassCosts(), depth=4)


DRAFTERS: dict[str, Callable[..., Drafter]] = {
    **{f"{depth} right": right_drafter(depth) for depth in range(1, 7)},
    "copies": copying_drafter,
    "the head's own": own_drafter,
}


def turn_of(model: Model, drafter: str | None, reply: Sequence[int] = (), **options: Any) -> Turn:
    cache = model.make_cache()
    options = {"temperature": 0.8, "presence_penalty": 0.5, "seed": 5} | options
    turn = model.turn(QUESTION, cache, ReplyOptions.of(options))
    turn.eos = frozenset()
    turn.drafter = None if drafter is None else DRAFTERS[drafter](model, cache, reply)
    return turn


@pytest.fixture(scope="module")
def demo() -> Generator[Model]:
    with load("demo") as model:
        yield model


@pytest.fixture(scope="module")
def plain(demo: Model) -> Turn:
    """A turn without drafts."""
    turn = turn_of(demo, None, max_tokens=TOKENS)
    done_of(turn.run())
    assert len(turn.reply_ids) == TOKENS
    return turn


@pytest.fixture(scope="module")
def answer(demo: Model) -> Turn:
    """A turn without drafts and thinking."""
    turn = turn_of(demo, None, thinking=False, max_tokens=TOKENS)
    done_of(turn.run())
    return turn


@pytest.fixture(scope="module")
def stopped(demo: Model, answer: Turn) -> Turn:
    """`answer`, ended by a stop string of several tokens."""
    turn = turn_of(demo, None, thinking=False, stop=STOP, max_tokens=TOKENS)
    done_of(turn.run())
    assert turn.reply_ids == answer.reply_ids[:STOPPED]
    assert demo.tokenizer.decode(turn.reply_ids[-4:]) == STOP
    return turn


def assert_ends(model: Model, turn: Turn, plain: Turn, tokens: int) -> None:
    """The reply has so many tokens of the plain one, and the cache exactly those."""
    assert turn.reply_ids == plain.reply_ids[:tokens]
    ids = [*turn.prompt, *turn.reply_ids]
    assert turn.cache.offset == len(ids)
    head, drafter = turn.snapshot().head, turn.drafter
    assert drafter is not None
    assert (head is None) == (drafter._mtp is None)
    assert head is None or head.kv.offset == len(ids) - 1
    network = model.network
    found = network.logits(network(mx.array([MORE]), turn.cache))
    np.testing.assert_allclose(np.array(found)[0], fresh_logits(model, tuple(ids)), atol=1e-3)


@remembered
def fresh_logits(model: Model, ids: tuple[int, ...]) -> np.ndarray:
    """At the tokens of `MORE` after `ids`, which are read at once: [2, vocab]."""
    return model.logits([*ids, *MORE])[-2:]


def accepted(drafter: str, done: Done) -> bool:
    return drafter == "the head's own" or (done.drafts is not None and done.drafts.accepted > 0)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_stop_string_over_several_tokens(demo, answer, stopped, drafter):
    turn = turn_of(demo, drafter, answer.reply_ids, thinking=False, stop=STOP)
    done = done_of(turn.run())
    assert_ends(demo, turn, answer, STOPPED)
    assert turn.content == stopped.content
    assert done.finish_reason == "stop"
    assert accepted(drafter, done)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_an_end_token_among_the_drafts(demo, plain, drafter):
    place = max(i for i, token in enumerate(plain.reply_ids) if plain.reply_ids.index(token) == i)
    turn = turn_of(demo, drafter, plain.reply_ids)
    turn.eos = frozenset({plain.reply_ids[place]})
    done = done_of(turn.run())
    assert_ends(demo, turn, plain, place + 1)
    assert done.finish_reason == "stop"
    assert accepted(drafter, done)


@pytest.mark.parametrize("drafter", ["6 right", "2 right", "copies"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_the_longest_reply_ends_within_a_pass(demo, plain, drafter, tokens):
    turn = turn_of(demo, drafter, plain.reply_ids, max_tokens=tokens)
    assert done_of(turn.run()).finish_reason == "length"
    assert_ends(demo, turn, plain, tokens)


@pytest.mark.parametrize("drafter", ["6 right", "3 right", "copies"])
@pytest.mark.parametrize("tokens", [1, 6])
def test_a_turn_is_cancelled_within_a_pass(demo, plain, drafter, tokens):
    turn = turn_of(demo, drafter, plain.reply_ids)
    events: Generator[Any] = turn.run()
    while len(turn.reply_ids) < tokens:
        next(events)
    events.close()
    assert_ends(demo, turn, plain, tokens)


@pytest.mark.parametrize("mtp", ["auto", 4])
def test_a_conversation_with_edits_branches_and_restarts(model_folder, tmp_path, mtp):
    """Where drafts start from restored states of the head, and from copies of other branches."""
    messages = []
    for source in ("off", mtp):
        model = load(model_folder, mtp=source)
        with Library(tmp_path / str(source)) as library:
            chat = Chat(model, library=library, thinking=False, temperature=0.0)

            def said(events: Any) -> None:
                done_of(events)

            said(chat.send("The quick brown fox jumps", max_tokens=12))
            said(chat.send("The lazy dog", max_tokens=12))
            said(chat.retry(max_tokens=9, seed=3))
            said(chat.edit(chat.messages[2].id, "def f(x):", max_tokens=12))
            number = chat.conversation.id
            chat.close()
            model.close()
            chat = Chat(model, library=library, conversation=number)
            said(chat.send("The quick brown fox jumps", max_tokens=12))
            chat.branch(chat.messages[1].id)
            events = chat.send("return x + 1", max_tokens=12)
            for _ in range(9):
                next(events)
            events.close()
            said(chat.send("The lazy dog jumps", max_tokens=12))
            messages.append([(m.role, m.content, m.state) for m in chat.conversation.messages])
            chat.close()
        model.close()
    assert messages[0] == messages[1]


def head_rows(model_folder: Path, library: Library, mtp: str | int) -> tuple[int, int, int]:
    """Of the next turn: cached tokens, all tokens at its end, and those that the head has read."""
    with load(model_folder, mtp=mtp) as model:
        chats = library.list()
        number = chats[0].id if chats else None
        chat = Chat(model, library=library, conversation=number, thinking=False, temperature=0.0)
        done = done_of(chat.send("The quick brown fox jumps", max_tokens=8))
        snapshot = chat._snapshots._memory[-1][1]
        chat.close()
        read = 0 if snapshot.head is None else snapshot.head.kv.offset
        return done.usage.cached_tokens, snapshot.offset, read


def test_the_head_goes_on_after_a_restart_and_begins_anew_after_turns_without(
    model_folder, tmp_path
):
    with Library(tmp_path) as library:
        _, end, read = head_rows(model_folder, library, 4)
        assert read == end - 1
        cached, end, read = head_rows(model_folder, library, 4)
        assert cached > 0
        assert read == end - 1
        cached, end, read = head_rows(model_folder, library, "off")
        assert cached > 0
        assert read == 0
        cached, end, read = head_rows(model_folder, library, 4)
        assert cached > 0
        assert read == end - cached - 1
        again, end, read = head_rows(model_folder, library, 4)
        assert again > cached
        assert read == end - cached - 1


@pytest.fixture(scope="module")
def call_and_thought(demo: Model) -> tuple[Reply, Reply]:
    """A tool call, and an answer after thinking, without drafts."""
    call, thought = replies(demo, "off")
    assert call.finish_reason == "tool_calls"
    assert thought.thinking
    return call, thought


def replies(demo: Model, mtp: str | int) -> tuple[Reply, Reply]:
    demo.mtp = mtp
    return (
        demo.generate(WEATHER, tools=TOOLS, thinking=False, temperature=0.0, max_tokens=60),
        demo.generate(QUESTION, thinking=True, temperature=0.7, seed=7, max_tokens=48),
    )


def test_thinking_and_tool_calls(demo, call_and_thought):
    for found, want in zip(replies(demo, 4), call_and_thought, strict=True):
        assert (found.text, found.thinking, found.tool_calls) == (
            want.text,
            want.thinking,
            want.tool_calls,
        )
        assert found.finish_reason == want.finish_reason
        assert found.drafts is not None
        assert found.drafts.accepted > 0
