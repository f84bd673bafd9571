"""Whole conversations: new ones, finding, titles, deleting, exporting."""

from qwen35_chat.controller import Controller
from qwen35_chat.exporting import export, written_to
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.library_actions import delete, rename, show_path, undelete


class ConversationHandler:
    """Commands about conversations."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    def new(self) -> None:
        self._controller.open(None)

    def list(self, words: str = "") -> None:
        self._view.list_conversations(words, self.open)

    async def open(self, conversation: int, message: int | None = None) -> None:
        """Open a conversation, on the path through `message` if one is named."""
        if message is not None:
            self._controller.require_idle()
            await show_path(self._controller, conversation, message)
        self._controller.open(conversation)

    async def rename(self, title: str = "") -> None:
        if title:
            await self._rename(title)
        else:
            self._controller.require_stored()
            self._view.ask_title(self._controller.title, self._rename)

    async def _rename(self, title: str) -> None:
        self._view.show_message(f"Renamed to {await rename(self._controller, title)}")

    async def delete(self) -> None:
        title = await delete(self._controller)
        self._view.show_message(f"Deleted {title}; {self._controller.key('undo')} brings it back")

    async def undo(self) -> None:
        """Restore and open the conversation that was deleted last."""
        restored = await undelete(self._controller)
        self._controller.open(restored.id)
        self._view.show_message(f"Back again: {restored.title}")

    async def export(self, name: str = "") -> None:
        controller, conversation = self._controller, self._controller.require_stored()
        file = await controller.calls.run("files", export, controller.library, conversation, name)
        self._view.show_message(written_to(file))
