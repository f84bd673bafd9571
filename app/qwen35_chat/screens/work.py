"""Parts of commands that wait for the disk, apart from the messages of the screens."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from textual.app import App
from textual.screen import Screen

from qwen35_chat.disk_calls import Work
from qwen35_mlx.errors import Qwen35Error


class WorkQueue:
    """Does one piece of work after another.

    A screen handles no key while it awaits something itself, so it leaves that to this queue. The
    workers are the app's: a screen that is left does not take its unfinished commands along.
    """

    def __init__(self, app: App[Any]):
        self._app = app
        self._turn = asyncio.Lock()
        self._unfinished = 0

    @property
    def idle(self) -> bool:
        return not self._unfinished

    def add(self, work: Work, failed: Callable[[str], object]) -> None:
        """Do `work` once all that was added before is done.

        Args:
            failed: shows the line of a `Qwen35Error`.
        """
        self._unfinished += 1
        self._app.run_worker(self._do(work, failed), group="work")

    async def _do(self, work: Work, failed: Callable[[str], object]) -> None:
        try:
            async with self._turn:
                await work
        except Qwen35Error as error:
            failed(str(error))
        finally:
            work.close()  # of no effect, unless the app ends before its turn
            self._unfinished -= 1


class WorkingApp(Protocol):
    """An app with a queue for commands, a place for lines to the user, and themes."""

    work: WorkQueue

    def show_message(self, text: str, *, error: bool = False) -> None: ...

    def use_theme(self, previewed: str = "") -> None: ...


def working_app(screen: Screen[Any]) -> WorkingApp:
    """The app of a screen."""
    return cast(WorkingApp, screen.app)
