"""Compacted conversations: a path that begins with a summary, and what the summary stands for.

A compaction adds a path from the root: a system message with a summary of the oldest turns, then
copies of the turns after them. The turns themselves stay on the path before.
"""

from collections.abc import Sequence

from qwen35_mlx.library.conversation import Conversation, Message


def whole_path(conversation: Conversation) -> tuple[Message, ...]:
    """The selected path with the turns that were summarised, oldest first.

    Each summary follows the messages that it sums up. Without any, this is the path.
    """
    path, whole = conversation.path(), tuple[Message, ...]()
    while path and path[0].summary is not None:
        whole = (*path, *whole)
        first = (_originals(conversation, path) or [None])[0]
        path = () if first is None else conversation.path(first.parent)
    return (*path, *whole)


def before_summary(conversation: Conversation) -> int | None:
    """The end of the path that was selected before the compaction of the selected one, by its id.

    None if that begins with no summary.
    """
    path = conversation.path()
    originals = _originals(conversation, path) if path and path[0].summary is not None else ()
    return originals[-1].id if originals else None


def after_summary(conversation: Conversation) -> int | None:
    """The newest summary of turns of the selected path, by its id; None without one."""
    on_path = {message.id for message in conversation.path()}
    roots = [conversation.message(root) for root in conversation.children(None)]
    for root in reversed(roots):
        if root.summary is not None and root.id not in on_path:
            originals = _originals(
                conversation, conversation.path(conversation.newest_leaf(root.id))
            )
            if originals and originals[-1].id in on_path:
                return root.id
    return None


def _originals(conversation: Conversation, path: Sequence[Message]) -> Sequence[Message]:
    """The messages that those behind the summary of a path were copied from.

    A conversation may have the same words twice: the originals are those of the longest match, and
    of several the newest.
    """
    summary, copies = path[0], path[1:]
    best: list[Message] = []
    for start in conversation.messages:
        if start.id >= summary.id:
            break
        if start.parent is None or not copies or not _same(start, copies[0]):
            continue
        found = [start]
        for copy in copies[1:]:
            following = _following(conversation, found[-1], copy, summary.id)
            if following is None:
                break
            found.append(following)
        if len(found) >= len(best):
            best = found
    return best


def _following(
    conversation: Conversation, message: Message, copy: Message, end: int
) -> Message | None:
    """The child of a message, with an id below `end`, that is the original of a copy."""
    children = [conversation.message(child) for child in conversation.children(message.id)]
    for child in reversed(children):
        if child.id < end and _same(child, copy):
            return child
    return None


def _same(one: Message, other: Message) -> bool:
    return (one.role, one.content, one.thinking) == (other.role, other.content, other.thinking)
