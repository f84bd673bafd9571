"""Whole conversations: new ones, finding, titles, deleting, exporting."""

from qwen35_chat.controller import Controller
from qwen35_chat.exporting import export
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.library_actions import delete, rename, undelete


class ConversationHandler:
    """Commands about conversations."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    def new(self) -> None:
        self._controller.open(None)

    def list(self, words: str = "") -> None:
        self._view.list_conversations(words, self.open)

    def open(self, conversation: int, message: int | None = None) -> None:
        """Open a conversation, on the path through `message` if one is named."""
        library = self._controller.library
        if message is not None:
            stored = library.conversation(conversation)
            if all(m.id != message for m in stored.path()):
                library.select(conversation, stored.newest_leaf(message))
        self._controller.open(conversation)

    def rename(self, title: str = "") -> None:
        if title:
            self._rename(title)
        else:
            self._controller.require_stored()
            self._view.ask_title(self._controller.title, self._rename)

    def _rename(self, title: str) -> None:
        self._view.show_message(f"Renamed to {rename(self._controller, title)}")

    def delete(self) -> None:
        self._view.show_message(f"Deleted {delete(self._controller)}; /undo brings it back")

    def undo(self) -> None:
        """Restore and open the conversation that was deleted last."""
        restored = undelete(self._controller)
        self._controller.open(restored.id)
        self._view.show_message(f"Back again: {restored.title}")

    def export(self, name: str = "") -> None:
        conversation = self._controller.require_stored()
        self._view.show_message(f"Written to {export(self._controller, conversation, name)}")
