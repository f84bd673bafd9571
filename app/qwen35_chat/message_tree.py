"""Messages by their places in the tree of a conversation.

The functions raise `Qwen35Error` if there is no such message.
"""

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.summaries import after_summary, before_summary, whole_path


def reply_to_replace(stored: Conversation, message: int | None) -> Message:
    """The reply that a retry is about; or the last result of tools, if that has no reply.

    Args:
        message: that reply or a message before it; None for the end of the path.
    """
    found = stored.message(message) if message else stored.path()[-1]
    while found.role != "assistant":
        following = stored.children(found.id)
        if not following and found.role == "tool":
            break
        if not following:
            raise Qwen35Error("this message has no reply yet: send it again")
        found = stored.message(following[-1])
    return found


def reply_to_continue(stored: Conversation, message: int | None = None, *, cut: bool) -> Message:
    """The reply that the model is to go on from.

    Args:
        message: that reply; None for the last one.
        cut: whether it must have been cut short.
    """
    reply = reply_to_replace(stored, message)
    if reply.role != "assistant" or reply.tool_calls:
        raise Qwen35Error("this reply calls a tool, so it cannot go on; /retry asks for another")
    if cut and reply.state == "complete" and reply.finish_reason != "length":
        raise Qwen35Error("this reply is complete; /amend changes it, and goes on from there")
    return reply


def last_user_message(stored: Conversation, up_to: int | None = None) -> Message:
    """The last user message on the path to `up_to`, or on the selected path."""
    for found in reversed(stored.path(up_to)):
        if found.role == "user":
            return found
    raise Qwen35Error("there is no message of yours yet")


def message_after(stored: Conversation, message: int) -> Message | None:
    """What follows a message on the selected path, summarised turns included; None at its end."""
    path = [found for found in whole_path(stored) if found.summary is None]
    ids = [found.id for found in path]
    at = ids.index(message) + 1 if message in ids else len(ids)
    return path[at] if at < len(path) else None


def beside_summary(stored: Conversation, *, back: bool) -> int:
    """A message of the path before the last compaction, or else of that after it, by its id."""
    to = before_summary(stored) if back else after_summary(stored)
    if to is None:
        raise Qwen35Error(f"there is no summary to {'undo' if back else 'go back to'} here")
    return to


def version_beside(stored: Conversation, step: int, message: int | None) -> int:
    """The version before (-1) or after (1) a message, by its id.

    Args:
        message: None for the last message on the path that has several versions.
    """
    if message is None:
        several = [m.id for m in stored.path() if len(stored.siblings(m.id)) > 1]
        if not several:
            raise Qwen35Error("there is only one version of every message here")
        message = several[-1]
    versions = stored.siblings(message)
    to = versions.index(message) + step
    if not 0 <= to < len(versions):
        which, total = stored.position(message)
        raise Qwen35Error(f"this is version {which} of {total}")
    return versions[to]
