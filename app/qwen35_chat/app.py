"""The chat on the terminal.

Knows the model only as an `Engine`: nothing here imports MLX.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from textual import work
from textual.app import App

from qwen35_chat import clipboard
from qwen35_chat.controller import Controller
from qwen35_chat.screens.chat import ChatScreen
from qwen35_chat.textual_private import write_to_terminal
from qwen35_chat.themes import DARK, LIGHT, use_theme


class ChatApp(App[None], inherit_bindings=False):
    """One window.

    Args:
        desk: what it shows. Engine and library are closed by the caller.
        demo: whether it begins with the demonstration model.
        conversation: to go on with.
        clock: seconds, for what is timed on the screen.
        ready: called when much has been made that will stay: once the first frame is drawn, and
            again whenever a model is loaded.
    """

    CSS_PATH = "app.tcss"
    TITLE = "qwen35-chat"
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self,
        controller: Controller,
        *,
        demo: bool = False,
        conversation: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        ready: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self._copied = ""
        self.controller = controller
        self.chat = ChatScreen(
            controller, demo=demo, conversation=conversation, clock=clock, ready=ready
        )
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        use_theme(self, controller.settings)

    def on_mount(self) -> None:
        self.push_screen(self.chat)
        for name in ("SIGHUP", "SIGTERM"):
            with suppress(AttributeError, NotImplementedError, ValueError, RuntimeError):
                number = getattr(signal, name)
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(number, self._ended_from_outside, number)

    def _ended_from_outside(self, number: int) -> None:
        """The terminal was closed, or the process is asked to end: keep what is typed, and go."""
        self.chat.save_draft()
        self.exit(return_code=128 + number)

    def action_leave(self) -> None:
        self.chat.quit()

    @property
    def clipboard(self) -> str:
        return self._copied

    def copy_to_clipboard(self, text: str) -> None:
        """Copy by a program of this machine, or else by the terminal."""
        self._copied = text
        self._copy(text)

    @work(thread=True, group="clipboard")
    def _copy(self, text: str) -> None:
        message = clipboard.copy(text, partial(write_to_terminal, self))
        self.call_from_thread(self.chat.show_message, message)

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        # A model chose the address: a page may be opened, a file or a program may not.
        if url.startswith(("https://", "http://")):
            super().open_url(url, new_tab=new_tab)
