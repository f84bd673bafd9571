"""Renaming, deleting and restoring conversations, the current one or another."""

from qwen35_chat.controller import Controller
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import ConversationSummary


def rename(controller: Controller, title: str, conversation: int | None = None) -> str:
    """Give a conversation a title, or an automatic one for "".

    Args:
        conversation: None for the current one.

    Returns:
        The title that it has now.
    """
    conversation = conversation or controller.require_stored()
    given = controller.library.rename(conversation, title)
    if conversation == controller.conversation:
        controller.title = given
    return given


def delete(controller: Controller, conversation: int | None = None) -> str:
    """Delete a conversation and return its title. A new one follows the current one.

    Args:
        conversation: None for the current one.
    """
    conversation = conversation or controller.require_stored()
    current = conversation == controller.conversation
    if current:
        controller.require_idle()
        if controller.read_only:
            raise Qwen35Error("this conversation is open in another window: delete it there")
    title = controller.library.conversation(conversation).title
    controller.library.delete(conversation)
    controller.deleted.append(conversation)
    if current:
        controller.open(None)
    return title


def undelete(controller: Controller) -> ConversationSummary:
    """Restore the conversation that was deleted last, if possible one deleted in this window."""
    found = list(controller.library.deleted())
    here = [s for id_ in reversed(controller.deleted) for s in found if s.id == id_]
    if not (here or found):
        raise Qwen35Error("nothing was deleted since the start")
    restored = (here or found)[0]
    controller.library.undelete(restored.id)
    if restored.id in controller.deleted:
        controller.deleted.remove(restored.id)
    return restored
