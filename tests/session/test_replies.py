"""How many replies fit into the memory at once: by what each may still become."""

from collections.abc import Callable

import mlx.core as mx
import pytest

import qwen35_mlx
from qwen35_mlx.model.memory import Estimate, estimate
from qwen35_mlx.session import memory
from qwen35_mlx.session.replies import Replies
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.running_reply import RunningReply


@pytest.fixture(scope="module")
def model():
    with qwen35_mlx.load("demo", kv_bits=8) as loaded:
        yield loaded


@pytest.fixture
def has_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give the machine this much memory."""
    return lambda size: monkeypatch.setattr(memory, "limit", lambda: size)


def begin(replies: Replies, text: str = "Hello", **options: object) -> RunningReply:
    messages = ({"role": "user", "content": text},)
    return replies.begin(ReplyRequest(messages, options=options))


def need(model: qwen35_mlx.Model, reply: RunningReply, tokens: int) -> Estimate:
    """Of a reply after some tokens, of the demo with its MTP head."""
    network, on_cpu = model.network, mx.default_device() == mx.cpu
    return estimate(
        *(network.config, network.dtype.size, len(reply.turn.prompt) + tokens, reply.turn.chunk, 8),
        unpacks=on_cpu,
        mtp=True,
    )


@pytest.mark.parametrize(
    ("options", "written", "tokens"),
    [
        ({"max_tokens": 100}, 0, 100),
        ({"max_tokens": 100}, 60, 100),
        ({}, 0, 4096),  # most end before the context is full
        ({}, 60, 60 + 4096),
        ({"max_tokens": 4100}, 60, 4100),
    ],
)
def test_a_reply_begins_where_it_and_the_rest_of_the_others_fit(
    model, has_room, options, written, tokens
):
    replies = Replies(model, None)
    running, reply = begin(replies, **options), begin(replies, "Name a colour.", max_tokens=8)
    running.turn.reply_ids += [0] * written
    needs = need(model, running, tokens), need(model, reply, 8)
    held = sum(one.kv + one.states for one in needs)
    enough = model.weight_bytes + held + max(one.work for one in needs)
    has_room(enough)
    assert replies.make_room([running], reply)
    has_room(enough - 1)
    assert not replies.make_room([running], reply)


def test_a_reply_that_is_alone_begins_and_snapshots_give_way(model, has_room):
    replies = Replies(model, None)
    first = begin(replies, "Hello " * 20, max_tokens=2)
    for _ in first.events:
        pass
    asked = ReplyRequest(({"role": "user", "content": "Hello " * 20},))
    reply = begin(replies)
    has_room(1 << 50)
    assert replies.make_room([], reply)
    assert replies.measured(asked).cached
    has_room(0)
    assert replies.make_room([], reply)
    assert not replies.measured(asked).cached
