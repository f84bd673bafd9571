"""Drives the app in tests, and reads its screen."""

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from qwen35_chat.app import ChatApp
from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import ThreadCalls
from qwen35_chat.drawing.entries import ReplyEntry, TranscriptEntry, UserEntry
from qwen35_chat.fake import FakeEngine, done
from qwen35_chat.history import History
from qwen35_chat.options import Start
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.tools.toolbox import Toolbox
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.transcript import TranscriptView
from textual.pilot import Pilot

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Answer, Event, PrefillProgress, Thinking, TurnEvent


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def played(events: Iterable[TurnEvent | Exception]) -> Generator[TurnEvent]:
    """The events of a turn, which ends where one of them is an error."""
    for event in events:
        if isinstance(event, Exception):
            raise event
        yield event


def reply(*pieces: str, thinking: str = "") -> list[Event]:
    """The events of a whole turn, from its prefill on."""
    thoughts: list[Event] = [Thinking(thinking)] if thinking else []
    return [PrefillProgress(0, 100, 0), *thoughts, *map(Answer, pieces), done()]


class Driver:
    """A running app, and what is behind it."""

    def __init__(self, app: ChatApp, engine: FakeEngine, clock: Clock):
        self.app = app
        self.engine = engine
        self.clock = clock
        self.controller = app.controller
        self.pilot: Pilot[None]

    @property
    def library(self) -> Library:
        return self.controller.library

    @property
    def composer(self) -> Composer:
        return self.app.chat.composer

    @property
    def transcript(self) -> TranscriptView:
        return self.app.chat.transcript

    @property
    def typed(self) -> str:
        return self.composer.text

    @property
    def sent(self) -> list[str]:
        return self.engine.sent

    @property
    def messages(self) -> list[TranscriptEntry]:
        return [e for e in self.transcript.entries if isinstance(e, UserEntry | ReplyEntry)]

    @property
    def text(self) -> str:
        """What can be read on the screen, line by line."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()[:height]
        return "\n".join(strip.text[:width].rstrip() for strip in lines)

    async def press(self, *keys: str) -> None:
        for key in keys:
            screen = self.app.screen
            await self.pilot.press(key)
            if self.app.screen is not screen:  # a new screen is filled once it has its size
                await self.pilot.pause(0.02)
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing waits for the disk, and the screen shows it."""
        await self.pilot.pause()
        calls = self.controller.calls
        assert isinstance(calls, ThreadCalls)
        for _ in range(2_000):
            if calls.idle and self.app.work.idle:
                break
            await self.pilot.pause(0.002)
        else:
            raise AssertionError("something still waits for the disk")
        await self.pilot.pause()

    async def send(self, text: str) -> None:
        self.composer.set_text(text)
        await self.pilot.pause()
        self.app.chat.completions.show([])
        await self.press("enter")

    async def shown(self, events: Sequence[Event] = ()) -> None:
        """Play `events` and wait until the screen has rendered them."""
        self.engine.play(events)
        seen = self.engine.polls
        # A poll begins only after the transitions of the one before are rendered.
        for _ in range(500):
            if self.engine.polls >= seen + 2:
                break
            await self.pilot.pause(0.01)
        else:
            raise AssertionError("the screen has stopped polling")
        await self.settled()

    async def turn(self, text: str, *pieces: str, thinking: str = "") -> None:
        """A whole turn."""
        await self.send(text)
        await self.shown(reply(*(pieces or ("fine",)), thinking=thinking))

    async def until(self, reached: Callable[[], object]) -> None:
        for _ in range(500):
            if reached():
                break
            await self.pilot.pause(0.01)
        else:
            raise AssertionError(f"never reached; the screen:\n{self.text}")
        await self.settled()


def make(
    folder: Path,
    *,
    clock: Clock | None = None,
    loads: bool = True,
    demo: bool = False,
    conversation: int | None = None,
    start: Start | None = None,
    settings: Path | None = None,
    library: Library | None = None,
    toolbox: Toolbox | None = None,
) -> Driver:
    """An app that does not run yet. Its library stays open, as its folder ends with the test."""
    library = library or Library(folder)
    engine = FakeEngine(library, loads=loads)
    file = SettingsFile(settings, commands=SCOPE_OF)
    if settings is not None:
        file.load()
    clock = clock or Clock()
    history = History(folder / "history.jsonl")
    controller = Controller(engine, library, file, history, clock=clock, toolbox=toolbox)
    return Driver(
        ChatApp(controller, demo=demo, start=start or Start(conversation), clock=clock),
        engine,
        clock,
    )


@asynccontextmanager
async def chat(
    folder: Path,
    *,
    size: tuple[int, int] = (80, 24),
    clock: Clock | None = None,
    loads: bool = True,
    demo: bool = False,
    conversation: int | None = None,
    start: Start | None = None,
    settings: Path | None = None,
    library: Library | None = None,
    toolbox: Toolbox | None = None,
) -> AsyncGenerator[Driver]:
    driver = make(
        folder,
        clock=clock,
        loads=loads,
        demo=demo,
        conversation=conversation,
        start=start,
        settings=settings,
        library=library,
        toolbox=toolbox,
    )
    try:
        async with driver.app.run_test(size=size) as pilot:
            driver.pilot = pilot
            await driver.shown()
            yield driver
    finally:
        assert driver.controller.calls.close(20)
