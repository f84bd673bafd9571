"""Turns that share passes reply as by themselves, also where they begin to in the middle."""

from functools import cache as remembered

import pytest

import qwen35_mlx
from qwen35_mlx.generation.decode_group import DecodeGroup
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.events import Done
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.turn import Turn
from tests.generation.test_decode_group import assert_same_state

QUESTIONS = ["What is 17 + 25?", "Name three colours.", "Write a line about the sea."]
OPTIONS = {"max_tokens": 40, "temperature": 0.8, "seed": 5}


@pytest.fixture(scope="module")
def model():
    with qwen35_mlx.load("demo", dtype="float32", mtp=2) as loaded:
        yield loaded


@pytest.fixture
def rows(monkeypatch) -> list[int]:
    """The conversations of each shared pass."""
    rows, together = [], Network.together
    monkeypatch.setattr(
        Network, "together", lambda *args: rows.append(args[1].shape[0]) or together(*args)
    )
    return rows


def turn(model: qwen35_mlx.Model, question: str, **options) -> Turn:
    messages = [{"role": "user", "content": question}]
    return model.turn(messages, model.make_cache(), ReplyOptions.of({**OPTIONS, **options}))


@remembered
def alone(model: qwen35_mlx.Model, question: str, **options) -> Turn:
    """The turn in passes of its own."""
    own = turn(model, question, **options)
    assert isinstance([*own.run()][-1], Done)
    return own


@pytest.mark.parametrize("options", [{}, {"thinking": True, "thinking_budget": 6}])
@pytest.mark.parametrize("alone_for", [0, 9])
def test_turns_share_passes_and_reply_the_same(model, rows, alone_for, options):
    want = [alone(model, question, **options) for question in QUESTIONS]
    group = DecodeGroup(model.network)
    turns = [turn(model, question, **options) for question in QUESTIONS]
    for one in turns:
        one.group = group
    runs = [one.run() for one in turns]
    for run, one in zip(runs, turns, strict=True):
        while len(one.reply_ids) < alone_for:
            next(run)
    group.wanted = True
    left = list(runs)
    while left:
        left = [run for run in left if not isinstance(next(run), Done)]
    assert [one.reply_ids for one in turns] == [own.reply_ids for own in want]
    assert [one.cache.offset for one in turns] == [own.cache.offset for own in want]
    assert max(rows) == 3


def test_a_cancelled_turn_leaves_the_others_their_replies(model, rows):
    want = alone(model, QUESTIONS[0])
    group = DecodeGroup(model.network)
    group.wanted = True
    one, other = turn(model, QUESTIONS[0]), turn(model, QUESTIONS[1])
    one.group = other.group = group
    runs = one.run(), other.run()
    while not other.reply_ids:
        for run in runs:
            next(run)
    runs[1].close()
    assert other.cache.offset == len(other.prompt) + len(other.reply_ids)
    for _ in runs[0]:
        pass
    assert one.reply_ids == want.reply_ids
    assert 2 in rows


@pytest.mark.parametrize("options", [{}, {"thinking": True, "thinking_budget": 6}])
@pytest.mark.parametrize("together_for", [1, 4, 12])
def test_a_turn_that_is_alone_again_drafts_again(model, rows, together_for, options):
    want = alone(model, QUESTIONS[0], **options)
    group = DecodeGroup(model.network)
    group.wanted = True
    one, other = (turn(model, question, **options) for question in QUESTIONS[:2])
    one.group = other.group = group
    runs = one.run(), other.run()
    while len(one.reply_ids) < together_for:
        for run in runs:
            next(run)
    runs[1].close()
    assert one.drafter is not None
    assert one.drafter.passes == 0
    group.wanted = False
    shared = len(rows)
    for _ in runs[0]:
        pass
    assert one.reply_ids == want.reply_ids
    assert_same_state(one.cache, want.cache)
    assert one.drafter.accepted > 0
    assert len(rows) == shared
