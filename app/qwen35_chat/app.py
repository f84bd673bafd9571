"""The Textual app. It uses the model through an `Engine`, and imports no MLX."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from textual import events, work
from textual.driver import Driver
from textual.screen import Screen

from qwen35_chat import clipboard
from qwen35_chat.background import is_light
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import ThreadCalls
from qwen35_chat.options import EMPTY, Start
from qwen35_chat.screens.chat import ChatScreen
from qwen35_chat.screens.work import WorkQueue
from qwen35_chat.terminal_driver import (
    BackgroundAnswered,
    NotSuspended,
    TextBegins,
    chat_driver,
)
from qwen35_chat.textual_private import PrivateApp, write_to_terminal
from qwen35_chat.themes import OWN, theme_name
from qwen35_mlx.crash import CrashReports


class ChatApp(PrivateApp, inherit_bindings=False):
    """One window.

    Args:
        controller: what the window shows. Its calls get threads, which the caller closes, and then
            its engine and library.
        demo: whether the demonstration model is used at the start.
        start: what it begins with.
        clock: seconds, the same clock as the controller's.
        ready: called when many long-lived objects have just been made: after the first frame, and
            after each load of a model.
    """

    CSS_PATH = "app.tcss"
    TITLE = "qwen35-chat"
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self,
        controller: Controller,
        *,
        demo: bool = False,
        start: Start = EMPTY,
        clock: Callable[[], float] = time.monotonic,
        ready: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self._copied = ""
        self.controller = controller
        self._crashes = CrashReports("qwen35-chat", controller.library.folder)
        controller.calls = ThreadCalls(clock)
        self.work = WorkQueue(self)
        self.chat = ChatScreen(self, controller, demo=demo, start=start, clock=clock, ready=ready)
        self._light = False  # the background of the terminal
        self._previewed = ""  # a theme that is tried and not chosen yet
        for theme in OWN:
            self.register_theme(theme)
        self.begin_with_theme(self._theme_name())

    def crash_line(self, error: BaseException) -> str:
        return self._crashes.line(error)

    def get_default_screen(self) -> Screen[None]:
        return self.chat

    def on_mount(self) -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self._crashes.keep(context.get("exception"))
        )
        # The terminal may have forgotten what was drawn before the shell had it.
        self.app_resume_signal.subscribe(self, lambda _: self.refresh(layout=True))
        for name in ("SIGHUP", "SIGTERM"):
            with suppress(AttributeError, NotImplementedError, ValueError, RuntimeError):
                number = getattr(signal, name)
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(number, self._exit_by_signal, number)

    def _exit_by_signal(self, number: int) -> None:
        """Store the draft and exit; the terminal was closed, for instance."""
        self.chat.save_draft()
        self.exit(return_code=128 + number)

    def use_theme(self, previewed: str = "") -> None:
        """Use the theme of the settings.

        Args:
            previewed: a theme to use in its place, until the next call; "" for none.
        """
        self._previewed = previewed
        self.theme = self._theme_name()

    def _theme_name(self) -> str:
        name = self._previewed or self.controller.settings.theme
        return theme_name(name, light=self._light)

    def on_background_answered(self, event: BackgroundAnswered) -> None:
        """Follow the terminal."""
        light = is_light(event.colour)
        if light is not None and light is not self._light:
            self._light = light
            self.use_theme(self._previewed)

    # Before the keys go anywhere, so that all of a text goes to one place, in order.

    def before_key(self, event: events.Key) -> None:
        if self.screen_stack[-1:] == [self.chat] and event.is_printable:
            self.chat.before_character(event.key)

    def on_text_begins(self, _: TextBegins) -> None:
        if self.screen is self.chat:
            self.chat.to_composer()

    def action_leave(self) -> None:
        self.chat.quit()

    def get_driver_class(self) -> type[Driver]:
        return chat_driver(super().get_driver_class())

    def action_suspend(self) -> None:
        self.chat.suspend()

    def on_not_suspended(self, _: NotSuspended) -> None:
        key = self.controller.key("suspend")
        self.chat.show_message(f"{key}: no shell has started this chat, so none can take over")

    def show_message(self, text: str, *, error: bool = False) -> None:
        """Show one line to the user in the chat."""
        self.chat.show_message(text, error=error)

    @property
    def clipboard(self) -> str:
        return self._copied

    def copy_to_clipboard(self, text: str) -> None:
        """Copy by a program of this machine, or else by the terminal, and show which it was."""
        self._copied = text
        self._copy(text)

    def on_text_selected(self) -> None:
        """Copy text outside the conversation that the mouse has selected."""
        text = self.screen.get_selected_text() or ""
        if text.strip() and self.controller.settings.copy_on_select == "on":
            self.copy_to_clipboard(text)

    @work(thread=True, group="clipboard")
    def _copy(self, text: str) -> None:
        message = clipboard.copy(text, partial(write_to_terminal, self))
        self.call_from_thread(self.chat.show_message, message)

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        # The model chose the address, so only web pages are opened, no files or programs.
        if url.startswith(("https://", "http://")):
            super().open_url(url, new_tab=new_tab)
