"""What the chat looks at again and again apart from its engine: the settings and the library."""

import asyncio

from textual.screen import Screen

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ScreenView
from qwen35_mlx.errors import Qwen35Error

SETTINGS_SECONDS = 1.0
LIBRARY_SECONDS = 1.0  # between looks at what waits for the library


class Watchers:
    """Reads the settings again when their file has changed, and stores what could not be stored."""

    def __init__(self, controller: Controller, view: ScreenView):
        self._controller = controller
        self._view = view

    def start(self, screen: Screen[None]) -> None:
        """Begin, with workers and timers of the chat's screen."""
        # A worker, since a handler that waits for the disk would keep the keys waiting, too.
        screen.run_worker(self._watch_settings(), group="settings")
        screen.set_interval(LIBRARY_SECONDS, self._watch_library)

    async def _watch_settings(self) -> None:
        while True:
            await asyncio.sleep(SETTINGS_SECONDS)
            try:
                changed = await self._controller.reload()
            except Qwen35Error as error:
                self._view.show_message(str(error), error=True)
                continue
            if changed is not None:
                self._view.show(changed)
                self._view.show_message("The settings were read again")

    def _watch_library(self) -> None:
        self._view.save_draft()
        controller = self._controller
        if controller.drafts.waiting and not controller.calls.library_seconds:
            controller.write_drafts()
