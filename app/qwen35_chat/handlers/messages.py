"""The messages on the screen: marking one, acting on it, copying, scrolling."""

from collections.abc import Callable

from qwen35_chat.controller import Controller
from qwen35_chat.drawing.entries import ReplyEntry, TranscriptEntry, UserEntry
from qwen35_chat.handlers.view import ScreenView
from qwen35_chat.handlers.writing import WritingHandler
from qwen35_chat.message_tree import last_user_message, message_after, reply_to_continue
from qwen35_mlx.errors import Qwen35Error


class MessageHandler:
    """Commands about the messages on the screen."""

    def __init__(self, controller: Controller, view: ScreenView, writing: WritingHandler):
        self._controller = controller
        self._view = view
        self._writing = writing
        self._copied_block: tuple[int, int] | None = None  # an entry's key, and which block of it

    # Going there, and about

    def enter(self) -> None:
        self._view.transcript.focus()

    def leave(self) -> None:
        self._view.composer.focus()

    def mark(self, step: int) -> None:
        self._view.transcript.mark(step)

    def toggle(self) -> None:
        """Fold or unfold the marked message."""
        if (marked := self._view.transcript.marked) is not None:
            self._view.transcript.toggle(marked)

    def page(self, direction: int) -> None:
        self._view.transcript.scroll_page(direction)

    def follow(self) -> None:
        self._view.transcript.follow()

    # Other versions of the marked message

    async def edit(self) -> None:
        """Write another version of the marked message, or change the marked reply."""
        marked = self._marked_in_library()
        stored = await self._controller.stored_with_messages()
        if isinstance(self._view.transcript.marked, ReplyEntry):
            message = reply_to_continue(stored, marked, cut=False)
        else:
            message = last_user_message(stored, marked)
        self._writing.begin_edit(message, message.content)

    async def branch(self) -> None:
        """Go on from the marked message with a new message beside the one that follows it."""
        message = self._marked_in_library()
        if isinstance(self._view.transcript.marked, UserEntry):
            await self.edit()
            return
        stored = await self._controller.stored_with_messages()
        following = message_after(stored, message)
        if following is None:
            self.leave()
            self._view.show_message("This is the last reply: just write on")
            return
        self._writing.begin_edit(following, "", after=stored.message(message))

    def _marked_in_library(self) -> int:
        if (message := self._view.marked_message) is None:
            raise Qwen35Error("this message is not kept yet: wait until its reply begins")
        return message

    # Copying

    def copy(self) -> None:
        """Copy the marked message, or the last reply."""
        entry = self._view.transcript.marked or self._last(
            lambda e: isinstance(e, ReplyEntry) and e.copy_text
        )
        if entry is None or not entry.copy_text:
            raise Qwen35Error("there is nothing to copy yet")
        self._view.copy(entry.copy_text)

    def copy_code(self) -> None:
        """Copy the last block of code; of a marked message the first, and then the next."""
        marked = self._view.transcript.marked
        entry = marked or self._last(lambda e: bool(e.code_blocks))
        if entry is None or not entry.code_blocks:
            raise Qwen35Error("there is no code here")
        if marked is None:
            self._view.copy(entry.code_blocks[-1])
            return
        key, block = self._copied_block or (-1, -1)
        block = (block + 1) % len(entry.code_blocks) if key == entry.key else 0
        self._copied_block = entry.key, block
        self._view.copy(entry.code_blocks[block])

    def _last(self, wanted: Callable[[TranscriptEntry], object]) -> TranscriptEntry | None:
        return next((e for e in reversed(self._view.transcript.entries) if wanted(e)), None)
