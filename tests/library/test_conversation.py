"""The message tree: paths, versions, and the messages for a chat template."""

from dataclasses import replace

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, title_from
from qwen35_mlx.text.reply import Answer, Thinking, ToolCall, join_events

#   1 user ── 2 reply ── 3 user ── 4 reply
#          └─ 5 reply          └─ 8 reply
#   6 user ── 7 reply
TREE = Conversation(
    id=9,
    title="T",
    messages=(
        Message(1, None, "user", "a"),
        Message(2, 1, "assistant", "b"),
        Message(3, 2, "user", "c"),
        Message(4, 3, "assistant", "d"),
        Message(5, 1, "assistant", "e"),
        Message(6, None, "user", "f"),
        Message(7, 6, "assistant", "g"),
        Message(8, 3, "assistant", "h"),
    ),
    leaf=4,
)


def ids(messages: tuple[Message, ...]) -> list[int]:
    return [message.id for message in messages]


def test_a_path_leads_from_the_root_to_a_message() -> None:
    assert ids(TREE.path()) == [1, 2, 3, 4]
    assert ids(TREE.path(5)) == [1, 5]
    assert ids(TREE.with_leaf(6).path()) == [6]
    assert ids(TREE.with_leaf(2).path()) == [1, 2]
    assert TREE.with_leaf(None).path() == ()


def test_versions_of_a_message() -> None:
    assert TREE.children(None) == (1, 6)
    assert TREE.children(3) == (4, 8)
    assert TREE.children(8) == ()
    assert TREE.siblings(5) == (2, 5)
    assert TREE.position(5) == (2, 2)
    assert TREE.position(1) == (1, 2)
    assert TREE.position(3) == (1, 1)


def test_the_newest_leaf_is_in_the_subtree_of_the_message() -> None:
    assert TREE.newest_leaf(1) == 8
    assert TREE.newest_leaf(2) == 8
    assert TREE.newest_leaf(5) == 5
    assert TREE.newest_leaf(6) == 7
    # The new message is on another branch than the last child.
    assert TREE.with_message(Message(9, 2, "user", "i")).newest_leaf(1) == 9


def test_adding_a_message_selects_it_and_replacing_one_does_not() -> None:
    more = TREE.with_message(Message(10, 7, "user", "more"))
    assert ids(more.path()) == [6, 7, 10]
    assert ids(TREE.path()) == [1, 2, 3, 4]  # the original is unchanged
    changed = TREE.with_message(replace(TREE.message(7), content="other"))
    assert changed.leaf == 4
    assert changed.message(7).content == "other"
    assert changed.position(7) == (1, 1)


def test_a_missing_message_is_an_error() -> None:
    for call in (TREE.message, TREE.path, TREE.siblings, TREE.children, TREE.newest_leaf):
        with pytest.raises(Qwen35Error, match="no message 99"):
            call(99)
    with pytest.raises(Qwen35Error, match="99 is selected"):
        TREE.with_leaf(99)
    with pytest.raises(Qwen35Error, match="message 10 follows message 11"):
        TREE.with_message(Message(10, 11, "user", ""))


def test_a_template_gets_the_message_of_the_reply_parser() -> None:
    events = [Thinking("Hm."), Answer("Yes."), ToolCall("f", {"x": 1})]
    parsed = join_events(events).for_template()
    stored = Message(
        2,
        1,
        "assistant",
        parsed["content"],
        thinking=parsed["reasoning_content"],
        tool_calls=tuple(parsed["tool_calls"]),
    )
    assert stored.for_template() == parsed
    plain = join_events([Answer("Yes.")]).for_template()
    assert Message(2, 1, "assistant", "Yes.").for_template() == plain
    assert Message(3, 2, "tool", "42").for_template() == {"role": "tool", "content": "42"}


def test_the_system_prompt_comes_first() -> None:
    system = {"role": "system", "content": "Be brief."}
    instructed = replace(TREE, settings=ChatSettings(system="Be brief."))
    assert instructed.for_template(1) == [system, {"role": "user", "content": "a"}]
    assert TREE.for_template(1) == [{"role": "user", "content": "a"}]
    assert instructed.with_leaf(None).for_template() == [system]
    own = replace(
        instructed,
        messages=(Message(1, None, "system", "Mine."), Message(2, 1, "user", "a")),
        leaf=2,
    )
    assert [message["content"] for message in own.for_template()] == ["Mine.", "a"]


def test_a_template_does_not_get_an_interrupted_empty_reply() -> None:
    stopped = TREE.with_message(Message(10, 8, "user", ""))
    stopped = stopped.with_message(Message(11, 10, "assistant", "", state="cancelled"))
    roles = [message["role"] for message in stopped.for_template()]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    ended = stopped.with_message(Message(11, 10, "assistant", ""))
    assert ended.for_template()[-1]["role"] == "assistant"  # complete, though empty
    thought = stopped.with_message(Message(12, 10, "assistant", "", thinking="Hm"))
    assert thought.for_template()[-1]["reasoning_content"] == "Hm"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("\n  \n  Two   words\there \nmore", "Two words here"),
        ("", ""),
        (" \n", ""),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("word " * 20, "word word word word word word word word word word word word…"[:59] + "…"),
        ("a" * 50 + ", " + "b" * 50, "a" * 50 + "…"),
        ("a " + "b" * 100, "a " + "b" * 57 + "…"),
        ("写" * 100, "写" * 59 + "…"),
    ],
)
def test_a_title_is_the_first_line_with_text_cut_between_words(text: str, title: str) -> None:
    assert title_from(text) == title
    assert len(title) <= 60
