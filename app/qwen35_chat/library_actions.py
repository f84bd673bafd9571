"""Renaming, pinning, archiving, deleting and restoring conversations."""

from collections.abc import Sequence

from qwen35_chat.controller import Controller
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Shelf
from qwen35_mlx.library.library import ConversationSummary, Library
from qwen35_mlx.library.summaries import whole_path


async def rename(controller: Controller, title: str, conversation: int | None = None) -> str:
    """Give a conversation a title, or an automatic one for "".

    Args:
        conversation: None for the current one.

    Returns:
        The title that it has now.
    """
    conversation = conversation or controller.require_stored()
    given = await controller.calls.run("library", controller.library.rename, conversation, title)
    if conversation == controller.conversation:
        controller.title = given
    return given


async def delete(controller: Controller, conversation: int | None = None) -> str:
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
    controller.deleting = current
    try:
        title = await controller.calls.run("library", _delete, controller.library, conversation)
    finally:
        controller.deleting = False
    controller.drafts.forget(conversation)
    controller.deleted.append(conversation)
    if conversation == controller.conversation:
        controller.open(None)
    return title


def _delete(library: Library, conversation: int) -> str:
    title = library.conversation(conversation).title
    library.delete(conversation)
    return title


async def undelete(controller: Controller) -> ConversationSummary:
    """Restore the conversation that was deleted last, if possible one deleted in this window."""
    here = tuple(controller.deleted)
    restored = await controller.calls.run("library", _undelete, controller.library, here)
    if restored.id in controller.deleted:
        controller.deleted.remove(restored.id)
    return restored


def _undelete(library: Library, deleted_here: Sequence[int]) -> ConversationSummary:
    found = list(library.deleted())
    here = [s for id_ in reversed(deleted_here) for s in found if s.id == id_]
    if not (here or found):
        raise Qwen35Error("nothing was deleted since the start")
    restored = (here or found)[0]
    library.undelete(restored.id)
    return restored


async def shelve(controller: Controller, conversation: int, shelf: Shelf) -> None:
    """Pin or archive a conversation, or take it back to the others."""
    await controller.calls.run("library", controller.library.shelve, conversation, shelf)


async def show_path(controller: Controller, conversation: int, message: int) -> None:
    """Select the path through a message, unless the selected one goes there."""
    await controller.calls.run("library", _select_path, controller.library, conversation, message)


def _select_path(library: Library, conversation: int, message: int) -> None:
    stored = library.conversation(conversation)
    if all(m.id != message for m in whole_path(stored)):
        library.select(conversation, stored.newest_leaf(message))
