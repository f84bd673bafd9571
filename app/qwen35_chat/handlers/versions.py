"""Other versions of messages and replies, and a summary of the oldest turns."""

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.message_tree import last_user_message


class VersionHandler:
    """Retry, edit, going between versions, compaction."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    async def retry(self) -> None:
        self._view.show(await self._controller.retry(self._view.marked_message))

    async def edit(self, text: str = "") -> None:
        """Send `text` instead of the last user message, or offer that message to be edited."""
        message = last_user_message(await self._controller.stored_with_messages())
        if text:
            self._view.send_edit(message, text)
        else:
            self._view.offer_edit(message)

    async def select(self, step: int) -> None:
        """Go to the version before (-1) or after (1)."""
        await self._controller.select_version(step, self._view.marked_message)

    def compact(self) -> None:
        self._controller.compact()
