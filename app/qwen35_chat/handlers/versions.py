"""Other versions of messages and replies, and a summary of the oldest turns."""

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.message_tree import last_user_message, reply_to_continue
from qwen35_chat.reply_settings import reply_options
from qwen35_mlx.errors import Qwen35Error


class VersionHandler:
    """Retry, edit, going between versions, compaction."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    async def retry(self, text: str = "") -> None:
        """Ask for another reply, with the settings that `text` names for it alone."""
        options = reply_options(text)
        self._view.show(await self._controller.retry(self._view.marked_message, options))

    async def edit(self, text: str = "") -> None:
        """Send `text` instead of the last user message, or offer that message to be edited."""
        message = last_user_message(await self._controller.stored_with_messages())
        if text:
            self._view.send_edit(message, text)
        else:
            self._view.offer_edit(message)

    async def continue_reply(self) -> None:
        """Let the model go on from a reply that was cut short."""
        self._view.show(await self._controller.continue_reply(self._view.marked_message))

    async def amend(self, text: str = "") -> None:
        """Let the model go on from `text` in place of a reply, or offer that to be changed."""
        stored = await self._controller.stored_with_messages()
        reply = reply_to_continue(stored, self._view.marked_message, cut=False)
        if text:
            self._view.send_edit(reply, text)
        else:
            self._view.offer_edit(reply)

    async def select(self, step: int, message: int | None = None) -> None:
        """Go to the version before (-1) or after (1) a message, and say which it is.

        Args:
            message: None for the one that is marked.
        """
        message = self._view.marked_message if message is None else message
        which, total, role = await self._controller.select_version(step, message)
        if not self._controller.has_keys:
            return  # the lines of plain mode name the version
        whose = "your message" if role == "user" else "the reply"
        back = self._controller.key("older" if step > 0 else "newer")
        self._view.show_message(f"Version {which} of {total} of {whose}; {back} goes back")

    async def compact(self, text: str = "") -> None:
        """Sum up the oldest turns; "undo" goes back to all of them, and "redo" to the summary."""
        if text not in ("", "undo", "redo"):
            raise Qwen35Error("/compact takes nothing, undo or redo after its name")
        if not text:
            self._controller.compact()
            return
        await self._controller.select_summary(back=text == "undo")
        if text == "undo":
            self._view.show_message("Without the summary; /compact redo goes on from it")
        elif self._controller.has_keys:
            self._view.show_message("With the summary; /compact undo goes back to what was before")
