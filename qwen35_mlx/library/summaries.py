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
        copied = _copied(conversation, path[0])
        end = copied[0].parent if copied else _newest_before(conversation, path[0])
        path = () if end is None else conversation.path(end)
    return (*path, *whole)


def before_summary(conversation: Conversation) -> int | None:
    """The end of the path that was selected before the compaction of the selected one, by its id.

    None if that begins with no summary.
    """
    path = conversation.path()
    return _end_before(conversation, path[0]) if path and path[0].summary is not None else None


def after_summary(conversation: Conversation) -> int | None:
    """The newest summary of turns of the selected path, by its id; None without one."""
    on_path = {message.id for message in conversation.path()}
    roots = [conversation.message(root) for root in conversation.children(None)]
    for root in reversed(roots):
        if root.summary is None or root.id in on_path:
            continue
        if _end_before(conversation, root) in on_path:
            return root.id
    return None


def _end_before(conversation: Conversation, summary: Message) -> int | None:
    """The end of the path that was selected when a summary was written; None if it is not there."""
    copied = _copied(conversation, summary)
    return copied[-1].id if copied else _newest_before(conversation, summary)


def _newest_before(conversation: Conversation, summary: Message) -> int | None:
    """The newest message that is older than a summary: the end of what it sums up, if it is all."""
    return max((m.id for m in conversation.messages if m.id < summary.id), default=None)


def _copied(conversation: Conversation, summary: Message) -> Sequence[Message]:
    """The messages that those behind a summary were copied from; none if all are summed up.

    A conversation may have the same words twice: the originals are those that end a path, then
    those of the longest match, and of several the newest.
    """
    copies = _first_path(conversation, summary)
    best: list[Message] = []
    best_rank = (False, 2)  # a single message within a path may have the words of a new one
    for start in conversation.messages if copies else ():
        if start.id >= summary.id:
            break
        if start.parent is None or not _same(start, copies[0]):
            continue
        found = [start]
        for copy in copies[1:]:
            following = _following(conversation, found[-1], copy, summary.id)
            if following is None:
                break
            found.append(following)
        ends = all(child > summary.id for child in conversation.children(found[-1].id))
        if (ends, len(found)) >= best_rank:
            best, best_rank = found, (ends, len(found))
    return best


def _first_path(conversation: Conversation, message: Message) -> Sequence[Message]:
    """What followed a message first, and what followed that."""
    path: list[Message] = []
    at = message.id
    while children := conversation.children(at):
        at = children[0]
        path.append(conversation.message(at))
    return path


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
