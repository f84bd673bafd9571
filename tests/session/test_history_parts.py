"""A history in parts: all of it, in order, none longer than the room."""

import random
from itertools import pairwise
from typing import Any

import pytest

from qwen35_mlx.session.history_parts import MESSAGE_TOKENS, CountedMessage, HistoryParts, counted

ROOM = 100


def message(role: str, tokens: int, name: str = "x") -> CountedMessage:
    """A message in which each character is a token."""
    return CountedMessage({"role": role, "content": (name + "." * tokens)[:tokens]}, tokens)


def taken(messages: list[CountedMessage], room: int = ROOM) -> list[list[CountedMessage]]:
    waiting = HistoryParts(messages)
    parts = []
    while waiting:
        parts.append(waiting.take(room))
    return parts


def lengths(parts: list[list[CountedMessage]]) -> list[list[int]]:
    return [[one.tokens for one in part] for part in parts]


def turns(*sizes: int) -> list[CountedMessage]:
    """Questions and replies in turn."""
    return [message(("user", "assistant")[n % 2], size) for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((), []),
        ((10, 20), [[10, 20]]),
        ((10, 20, 30, 40), [[10, 20, 30, 40]]),
        ((10, 20, 30, 41), [[10, 20], [30, 41]]),  # a turn stays together
        ((10, 20, 10, 20, 30, 30), [[10, 20, 10, 20], [30, 30]]),
        ((60, 60, 10, 10), [[60], [60, 10, 10]]),  # a turn that is too long is divided
        ((100, 100), [[100], [100]]),
        ((10, 250), [[10, 90], [100], [60]]),  # a message that is too long is cut
        ((250, 10), [[100], [100], [50, 10]]),
        ((10, 20, 10, 250), [[10, 20, 10, 60], [100], [90]]),
        ((40, 20, 10, 250), [[40, 20], [10, 90], [100], [60]]),
    ],
)
def test_parts_end_with_turns_where_they_can(sizes, expected) -> None:
    assert lengths(taken(turns(*sizes))) == expected


def test_any_history_is_taken_whole_and_in_order() -> None:
    numbers = random.Random(19)
    for _ in range(300):
        room = numbers.randint(1, 60)
        history = [
            message(numbers.choice(("user", "assistant", "tool")), numbers.randint(1, 150), str(n))
            for n in range(numbers.randint(1, 20))
        ]
        parts = taken(history, room)
        assert all(0 < sum(one.tokens for one in part) <= room for part in parts)
        written = [
            (one.message["role"], char)
            for part in parts
            for one in part
            for char in one.message["content"]
        ]
        whole = [(one.message["role"], char) for one in history for char in one.message["content"]]
        assert written == whole


def test_a_long_message_is_cut_at_a_line_break_if_there_is_one() -> None:
    lines = "a line of text\n" * 30
    parts = taken([CountedMessage({"role": "user", "content": lines}, len(lines))])
    pieces = [part[0].message["content"] for part in parts]
    assert "".join(pieces) == lines
    assert all(piece.endswith("\n") for piece in pieces)
    assert len(pieces) == 5


def test_what_is_put_back_is_taken_again() -> None:
    waiting = HistoryParts(turns(10, 20, 10, 250))
    first = waiting.take(ROOM)
    waiting.put_back(first)
    again = []
    while waiting:
        again += waiting.take(ROOM // 2)
    sizes = [one.tokens for one in again]
    assert sum(sizes) == 290
    assert all(size <= ROOM // 2 for size in sizes)


def test_calls_of_tools_count_and_are_cut_as_text() -> None:
    call = {"type": "function", "function": {"name": "write", "arguments": {"text": "z" * 300}}}
    told: dict[str, Any] = {"role": "assistant", "content": "Now.", "tool_calls": [call]}
    one = counted(told, str.encode)
    assert one.message is told
    assert one.tokens > 300 + MESSAGE_TOKENS
    parts = taken([one])
    assert len(parts) == 4
    assert "".join(p[0].message["content"] for p in parts).count("z") == 300
    assert all(set(p[0].message) == {"role", "content"} for p in parts)
    assert all(a[0].message["content"] for a, _ in pairwise(parts))
