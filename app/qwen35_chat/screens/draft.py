"""The draft of the conversation: loaded into the composer, and stored as it changes."""

from collections.abc import Callable
from typing import Any

from textual.screen import Screen
from textual.timer import Timer

from qwen35_chat.controller import Controller
from qwen35_chat.widgets.composer import Composer
from qwen35_mlx.errors import Qwen35Error


class ScreenDraft:
    """Keeps the draft in the library equal to what is typed, some time after the last key.

    Args:
        typed: returns what is typed and not sent.
        failed: shows a line about an error.
    """

    def __init__(
        self,
        screen: Screen[Any],
        controller: Controller,
        composer: Composer,
        typed: Callable[[], str],
        failed: Callable[[str], object],
    ):
        self._screen = screen
        self._controller = controller
        self._composer = composer
        self._typed = typed
        self._failed = failed
        self._timer: Timer | None = None
        self._conversation: int | None = None  # whose draft is in the composer
        self._read_only = False
        self._noted = ""  # the text that was stored last, or is being stored
        self.loading = False

    def load(self, typed: str = "") -> None:
        """Put the draft of the controller's conversation into the composer.

        Args:
            typed: goes below it, like what is typed until it has been read.
        """
        self._conversation = self._controller.conversation
        self._read_only = self._controller.read_only
        self._noted = ""
        self.loading = True
        self._composer.set_text("")
        if typed:
            self._composer.put_draft(typed)
        self._screen.run_worker(self._load, group="draft", exclusive=True)

    @property
    def stored(self) -> bool:
        """Whether what is typed is stored, or is being stored."""
        return self._typed() == self._noted

    async def _load(self) -> None:
        try:
            draft = await self._controller.draft()
        except Qwen35Error as error:
            draft = ""
            self._failed(str(error))
        self._noted = draft
        self.loading = False
        if draft:
            self._composer.put_draft(draft)

    def named(self) -> None:
        """The conversation has its id, which it gets with its first message."""
        if self._conversation is None:
            self._conversation = self._controller.conversation

    def switch(self) -> None:
        """Another conversation is shown: store the draft of the one before, and load its own."""
        if self._controller.conversation == self._conversation:
            return
        text = self._typed()
        if self._conversation in self._controller.deleted:
            self.load(text if text != self._noted else "")
            return
        if not (self.loading or self._read_only) and text != self._noted:
            self._controller.drafts.note(self._conversation, text)
            self._controller.write_drafts()
        self.load()

    def changed(self, seconds: float) -> None:
        """Store what is typed after this time, unless it changes again."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self._screen.set_timer(seconds, self.save)

    def save(self) -> None:
        """Store what is typed, if it has changed. Does not wait for it."""
        self._conversation = self._controller.conversation
        controller = self._controller
        if self.loading or controller.deleting or self._conversation in controller.deleted:
            return
        if (text := self._typed()) != self._noted:
            self._noted = text
            controller.save_draft(text)
