"""The messages that a turn adds to a conversation, checked and as the library stores them."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.text.messages import plain_message


def question(text: str) -> list[Mapping[str, Any]]:
    """A message of the user.

    Raises:
        Qwen35Error: it is empty.
    """
    if not text.strip():
        raise Qwen35Error("the message is empty: write something")
    return [_stored({"role": "user", "content": text})]


def new_messages(content: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What `Chat.send` takes: the user's text, or messages of the user and of tools.

    Raises:
        Qwen35Error: there is none, or one that cannot be stored.
    """
    if isinstance(content, str):
        return question(content)
    if not content:
        raise Qwen35Error("there is no message to send: give at least one")
    plain = [plain_message(message, index) for index, message in enumerate(content)]
    for index, message in enumerate(plain):
        if message["role"] not in ("user", "tool"):
            raise Qwen35Error(
                f"messages[{index}] cannot be sent: give {{'role': 'tool', 'content': TEXT}}"
            )
    return [_stored(message) for message in plain]


def _stored(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with its text as the library stores it: its tokens survive a restart."""
    return {**message, "content": replace_surrogates(message["content"])}
