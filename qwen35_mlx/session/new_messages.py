"""The messages that a turn adds to a conversation, checked and as the library stores them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, Role
from qwen35_mlx.library.history_match import matched
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.text.messages import SYSTEM_ROLES, plain_message, system_prompt


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


def retried(tree: Conversation, message: int | None) -> int:
    """The id of the message that a reply answers, to answer it again.

    Args:
        message: the id of the reply, or of a result of tools that has none; None for the last
            reply of the selected path.

    Raises:
        Qwen35Error: there is no such reply.
    """
    reply = tree.message(last_reply(tree) if message is None else message)
    if reply.role == "tool":
        return reply.id
    if reply.role != "assistant":
        raise Qwen35Error(f"message {reply.id} is not a reply: retry one that the model wrote")
    if reply.parent is None:
        raise Qwen35Error(f"message {reply.id} answers nothing: send a message first")
    return reply.parent


def last_reply(tree: Conversation) -> int:
    """The id of the last reply of the selected path.

    Raises:
        Qwen35Error: there is none.
    """
    replies = [m.id for m in tree.path() if m.role == "assistant"]
    if not replies:
        raise Qwen35Error("there is no reply to write again: send a message first")
    return replies[-1]


def as_stored(message: Mapping[str, Any], parent: int | None = None) -> Message:
    """A plain message of a template as the library stores it."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return Message(
        id=0,
        parent=parent,
        role=cast(Role, message["role"]),
        content=replace_surrogates(message["content"]),
        thinking=replace_surrogates(message.get("reasoning_content") or ""),
        tool_calls=tuple(
            {
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in calls
        ),
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the messages of a program belong in a conversation.

    Attributes:
        parent: the id of the message that the others follow; None for the start.
        added: those that the conversation does not hold yet.
        settings: of the conversation, with the system prompt that the program sends, if any.
    """

    parent: int | None
    added: list[Mapping[str, Any]]
    settings: ChatSettings


def placed(tree: Conversation, messages: Sequence[Mapping[str, Any]]) -> Placement:
    """Place messages: a whole history if one of the assistant is among them, else new ones.

    A history goes on from the deepest message that the conversation has of it; new messages follow
    the selected path.

    Raises:
        Qwen35Error: there is none to reply to, or one that cannot be stored.
    """
    plain = [plain_message(message, index) for index, message in enumerate(messages)]
    for index, message in enumerate(plain):
        if message["role"] not in (*SYSTEM_ROLES, "user", "assistant", "tool"):
            raise Qwen35Error(f"messages[{index}] has the role {message['role']!r}: give 'user'")
    settings, system = tree.settings, system_prompt(plain)
    if system is not None:
        settings = replace(settings, system=replace_surrogates(system))
    stored = [as_stored(message) for message in plain if message["role"] not in SYSTEM_ROLES]
    if not stored or stored[-1].role == "assistant":
        raise Qwen35Error("there is no message to reply to: end with one of the user or of a tool")
    parent, known = tree.leaf, 0
    if any(message.role == "assistant" for message in stored):
        parent, known = matched(tree, stored)
    _check_results(tree.path(parent) if parent is not None else (), stored[known:])
    return Placement(parent, [message.for_template() for message in stored[known:]], settings)


def _check_results(before: Sequence[Message], added: Sequence[Message]) -> None:
    """Refuse results of tools where the last reply has called none.

    Raises:
        Qwen35Error: there is one.
    """
    called = False
    for index, message in enumerate([*before, *added]):
        if message.role == "assistant":
            called = bool(message.tool_calls)
        elif message.role == "tool" and not called and index >= len(before):
            raise Qwen35Error(
                "there is the result of a tool, and the reply before it has called none: send the"
                " reply with its call, too"
            )
