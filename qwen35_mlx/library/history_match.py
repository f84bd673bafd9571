"""Where a conversation holds a history that a program sends with each of its requests."""

from collections.abc import Iterable, Sequence
from typing import Any

from qwen35_mlx.library.conversation import Conversation, Message


def matched(tree: Conversation, history: Sequence[Message]) -> tuple[int | None, int]:
    """The longest beginning of a history that is a path from the root of a conversation.

    Messages are the same if their role, content and tool calls are. Thinking is ignored, since
    programs drop it, and so is white space around a reply. Of several such paths, such as equal
    replies to one question, the selected one is taken, else the newest.

    Returns:
        the id of the last message that matches, None for none, and how many do.
    """
    selected = {message.id for message in tree.path()}
    at: list[int | None] = [None]
    last: int | None = None
    for count, wanted in enumerate(history):
        at = [child for child in _children(tree, at) if _same(tree.message(child), wanted)]
        if not at:
            return last, count
        last = max((i for i in at if i is not None), key=lambda i: (i in selected, i))
    return last, len(history)


def _children(tree: Conversation, parents: Iterable[int | None]) -> list[int]:
    """The messages after these, behind replies that were interrupted before their first token."""
    found: list[int] = []
    waiting = list(parents)
    while waiting:
        for child in tree.children(waiting.pop()):
            if tree.message(child).abandoned:
                waiting.append(child)
            else:
                found.append(child)
    return found


def _same(stored: Message, wanted: Message) -> bool:
    if stored.role != wanted.role:
        return False
    one, other = stored.content, wanted.content
    if stored.role == "assistant":
        one, other = one.strip(), other.strip()
    return one == other and _calls(stored) == _calls(wanted)


def _calls(message: Message) -> list[Any]:
    """The names and arguments of the tool calls."""
    functions = [call.get("function", call) for call in message.tool_calls]
    return [(function.get("name"), function.get("arguments") or {}) for function in functions]
