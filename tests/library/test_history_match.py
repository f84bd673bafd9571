"""Where a conversation holds a history: the deepest match, on any path."""

from typing import Any

import pytest

from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.history_match import matched


def message(role, content="", calls=(), number=0, parent=None, **rest: Any) -> Message:
    functions = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return Message(number, parent, role, content, tool_calls=tuple(functions), **rest)


def tree(
    *rows: tuple[int, int | None, str, str], leaf: int | None = None, **states
) -> Conversation:
    messages = tuple(
        message(role, content, number=number, parent=parent, thinking="hm")
        for number, parent, role, content in rows
    )
    return Conversation(1, "", messages, leaf or messages[-1].id)


CHAT = tree(
    (1, None, "user", "Hi"),
    (2, 1, "assistant", "Hello"),
    (3, 2, "user", "One"),
    (4, 3, "assistant", "1"),
    (5, 2, "user", "Two"),
    (6, 5, "assistant", "2"),
)
HI, HELLO, ONE, TWO = (
    message("user", "Hi"),
    message("assistant", "Hello"),
    message("user", "One"),
    message("user", "Two"),
)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], (None, 0)),
        ([message("user", "hi"), HELLO], (None, 0)),
        ([HI], (1, 1)),
        ([HI, HELLO, message("user", "Three")], (2, 2)),
        ([HI, message("assistant", " Hello\n"), ONE], (3, 3)),
        ([HI, message("user", "Hello")], (1, 1)),
        ([message("user", "Hi "), HELLO], (None, 0)),
        ([HI, HELLO, TWO, message("assistant", "2"), message("user", "More")], (6, 4)),
        ([HI, HELLO, ONE, message("assistant", "2")], (3, 3)),
    ],
)
def test_a_history_is_followed_as_far_as_role_and_content_are_the_same(history, expected):
    assert matched(CHAT, history) == expected


def test_of_equal_replies_the_one_that_the_history_goes_on_from_is_taken():
    retried = tree(
        (1, None, "user", "Hi"),
        (2, 1, "assistant", "Hello"),
        (3, 1, "assistant", "Hello"),
        (4, 2, "user", "One"),
        (5, 3, "user", "Two"),
        (6, 1, "assistant", "Hello"),
        leaf=4,
    )
    assert matched(retried, [HI, HELLO, ONE]) == (4, 3)
    assert matched(retried, [HI, HELLO, TWO]) == (5, 3)
    assert matched(retried, [HI, HELLO]) == (2, 2)  # on the selected path
    assert matched(retried.with_leaf(None), [HI, HELLO]) == (6, 2)  # the newest


def test_tool_calls_are_compared_by_name_and_arguments():
    call = message("assistant", calls=[("f", {"x": 1})], number=2, parent=1)
    stored = Conversation(1, "", (message("user", "Hi", number=1), call), 2)

    def same(*calls: Any) -> bool:
        return matched(stored, [HI, message("assistant", calls=calls)])[1] == 2

    assert same(("f", {"x": 1}))
    assert not same(("g", {"x": 1}))
    assert not same(("f", {"x": 2}))
    assert not same(("f", {"x": 1}), ("f", {"x": 1}))
    assert not same()


def test_replies_that_were_interrupted_before_their_first_token_are_no_part_of_it():
    empty = message("assistant", number=2, parent=1, state="partial")
    after = message("user", "One", number=3, parent=2)
    stored = Conversation(1, "", (message("user", "Hi", number=1), empty, after), 3)
    assert matched(stored, [HI, ONE]) == (3, 2)
