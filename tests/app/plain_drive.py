"""Drives plain mode in tests."""

import io
import signal
from collections.abc import Callable
from pathlib import Path

from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.controller import Controller
from qwen35_chat.fake import FakeEngine
from qwen35_chat.history import History
from qwen35_chat.options import Start
from qwen35_chat.plain_mode import PlainMode
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.tools.toolbox import Toolbox

from qwen35_mlx import __version__
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Event,
)

STARTED = f"qwen35-chat {__version__}, demo. /help lists the commands.\n"
READY = STARTED + "demo is loaded; its context is 4,096 tokens.\n"
FIGURES = "(20 tokens, 38 a second, context 120 of 4,096)\n"


class PlainChat:
    """A chat in plain mode, its input and its output.

    Attributes:
        steps: each is called at one of the waits, in order.
    """

    def __init__(
        self,
        home: Path,
        *,
        loads: bool = True,
        library: Library | None = None,
        toolbox: Toolbox | None = None,
        attended: bool = True,
    ):
        self.library = library or Library(home)
        self.engine = FakeEngine(self.library, loads=loads)
        settings = SettingsFile(home / "settings.toml", commands=SCOPE_OF)
        settings.load()
        self.controller = Controller(
            self.engine,
            self.library,
            settings,
            History(home / "history.jsonl"),
            toolbox=toolbox,
        )
        self.out = io.StringIO()
        self.prompts: list[str] = []
        self.steps: list[Callable[[], object]] = []
        self.now = 0.0
        self._typed: list[str | BaseException | list[Event]] = []
        self.plain = PlainMode(
            self.controller,
            attended=attended,
            read=self._read,
            out=self.out,
            sleep=self._sleep,
            clock=lambda: self.now,
        )

    def run(
        self,
        *typed: str | BaseException | list[Event],
        at: int | None = None,
        start: Start | None = None,
    ) -> str:
        """Run plain mode to the end of the input.

        Events are played after the line before them is read.

        Returns:
            What was written since the model was loaded.
        """
        self._typed = list(typed)
        self.plain.run(start or Start(at))
        assert not self._typed, "not everything was read"
        return self.out.getvalue().removeprefix(READY).removesuffix("\n")

    def _read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self._typed:
            raise EOFError
        typed = self._typed.pop(0)
        if isinstance(typed, BaseException):
            raise typed
        assert isinstance(typed, str)
        while self._typed and isinstance(self._typed[0], list):
            events = self._typed.pop(0)
            assert isinstance(events, list)
            self.steps.append(lambda events=events: self.engine.play(events))
        return typed

    def _sleep(self, _: float) -> None:
        if not self.steps:
            raise AssertionError(f"it waits for ever:\n{self.out.getvalue()}")
        self.steps.pop(0)()


def ctrl_c(session: PlainChat, events: list[Event]) -> Callable[[], None]:
    """A step: Ctrl+C is pressed, and these events follow."""

    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        session.engine.play(events)

    return step
