"""Messages in the forms that programs write: read as one form, or refused in one line."""

from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.messages import plain_message, plain_messages
from qwen35_mlx.text.template import ChatTemplate

HELLO = {"role": "user", "content": "Hello"}


def roles(messages: list[dict[str, Any]]) -> list[str]:
    return [message["role"] for message in messages]


def test_system_and_developer_messages_are_joined_at_the_front_in_order():
    messages = [
        {"role": "developer", "content": "One."},
        HELLO,
        {"role": "system", "content": [{"type": "text", "text": "Two."}]},
        {"role": "assistant", "content": "Hi"},
        {"role": "developer", "content": "Three."},
    ]
    plain = plain_messages(messages)
    assert roles(plain) == ["system", "user", "assistant"]
    assert plain[0]["content"] == "One.\n\nTwo.\n\nThree."


def test_blank_system_messages_leave_no_blank_lines():
    messages = [{"role": "system", "content": text} for text in ("A", " \n", "", "B")]
    assert plain_messages(messages)[0]["content"] == "A\n\nB"


def test_one_system_message_stays_as_it_is():
    only = {"role": "system", "content": " A \n"}
    assert plain_messages([only, HELLO]) == [only, HELLO]


def test_a_template_that_refuses_late_system_messages_renders_them(template: ChatTemplate):
    late = template.render([HELLO, {"role": "system", "content": "Be brief."}])
    assert late == template.render([{"role": "developer", "content": "Be brief."}, HELLO])
    assert late.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_reasoning_is_read_as_reasoning_content():
    plain = plain_message({"role": "assistant", "content": "4", "reasoning": "2 + 2"}, 0)
    assert plain == {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}


@pytest.mark.parametrize(("given", "kept"), [("long", "long"), ("", ""), (None, "short")])
def test_reasoning_content_comes_before_reasoning(given: str | None, kept: str):
    message = {"role": "assistant", "reasoning_content": given, "reasoning": "short"}
    assert plain_message(message, 0)["reasoning_content"] == kept


def test_parts_of_text_become_one_string_also_of_tools():
    parts = [{"type": "text", "text": "a"}, {"text": "b"}, {"type": "text", "text": "c"}]
    for role in ("user", "tool", "system", "assistant"):
        assert plain_message({"role": role, "content": parts}, 0)["content"] == "abc"


@pytest.mark.parametrize("role", ["assistant", "tool"])
def test_content_of_an_assistant_or_a_tool_may_be_none(role: str):
    assert plain_message({"role": role, "content": None}, 0)["content"] == ""


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_content_of_others_may_not_be_none(role: str):
    with pytest.raises(Qwen35Error, match="has no 'content'"):
        plain_message({"role": role, "content": None}, 0)


@pytest.mark.parametrize(
    ("part", "medium"),
    [
        ({"type": "image"}, "an image"),
        ({"type": "image_url", "image_url": {"url": "data:"}}, "an image"),
        ({"type": "input_image", "image_url": "data:"}, "an image"),
        ({"type": "text", "text": "what?", "image": "a.png"}, "an image"),
        ({"image": "a.png"}, "an image"),
        ({"type": "input_audio", "input_audio": {}}, "audio"),
        ({"type": "video_url", "video_url": {}}, "a video"),
        ({"type": "file", "file": {}}, "a file"),
        ({"type": "document", "source": {}}, "a file"),
    ],
)
def test_a_part_that_is_no_text_is_refused_by_name(part: dict[str, Any], medium: str):
    content = [{"type": "text", "text": "Look:"}, part]
    with pytest.raises(Qwen35Error) as caught:
        plain_messages([HELLO, {"role": "user", "content": content}])
    assert str(caught.value).startswith(f"messages[1].content[1] is {medium}, and the")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("a", "content[0] is of type str"),
        ({"type": "text"}, "is a part of type 'text' without text"),
        ({"type": "text", "text": None}, "is a part of type 'text' without text"),
        ({"type": "refusal", "refusal": "no"}, "is a part of type 'refusal' without text"),
        ({"type": [1], "text": "a"}, "is a part of type [1] without text"),
    ],
)
def test_an_odd_part_is_named(part: object, words: str):
    with pytest.raises(Qwen35Error) as caught:
        plain_message({"role": "user", "content": [part]}, 0)
    assert words in str(caught.value)


def test_reasoning_of_another_type_is_named():
    with pytest.raises(Qwen35Error, match=r"messages\[2\] has 'reasoning' of type dict"):
        plain_message({"role": "assistant", "content": "", "reasoning": {"effort": "low"}}, 2)
