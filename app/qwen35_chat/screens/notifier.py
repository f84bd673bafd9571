"""Notifies the user, in another window, that a long reply has ended."""

import os
from collections.abc import Callable
from typing import Any

from textual.app import App

from qwen35_chat.controller import Controller
from qwen35_chat.notification import notification
from qwen35_chat.textual_private import write_to_terminal
from qwen35_chat.transitions import Transition, TurnEnded, TurnRequested, TurnTakenBack

LONG_SECONDS = 10.0  # from the message to the end of the reply
FINISHED = "qwen35-chat: the reply is finished"
FAILED = "qwen35-chat: the reply has ended with an error"


class Notifier:
    """Looks at the transitions of turns.

    Args:
        app: knows whether the terminal has the focus, if the terminal tells it.
        clock: seconds.
    """

    def __init__(self, app: App[Any], controller: Controller, clock: Callable[[], float]):
        self._app = app
        self._controller = controller
        self._clock = clock
        self._began = clock()

    def see(self, transition: Transition) -> None:
        """Notify the user if this is the end of a long turn."""
        match transition:
            case TurnRequested():
                self._began = self._clock()
            case TurnEnded(error=error):
                self._end(FAILED if error else FINISHED)
            case TurnTakenBack(error=error) if error:
                self._end(FAILED)
            case _:
                pass

    def _end(self, text: str) -> None:
        # A reply that calls tools goes on, and so do messages that wait.
        if self._controller.busy or self._app.app_focus:
            return
        if self._clock() - self._began > LONG_SECONDS:
            setting = self._controller.settings.notification
            write_to_terminal(self._app, notification(setting, text, os.environ))
