"""How the tests drive the app, and read its screen."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from qwen35_chat.app import ChatApp
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.status import Status
from textual.pilot import Pilot

from tests.app.fake_engine import FakeEngine


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def chat(
    engine: FakeEngine, *, size: tuple[int, int] = (80, 24), clock: Clock | None = None
) -> AsyncGenerator[Pilot[None]]:
    chat_app = ChatApp(engine, model="demo", demo=True, clock=clock or Clock())
    async with chat_app.run_test(size=size) as pilot:
        await engine.shown(pilot)
        yield pilot


async def send(pilot: Pilot[None], text: str) -> None:
    composer = pilot.app.query_one(Composer)
    composer.text = text
    await pilot.press("enter")
    await pilot.pause()


def composed(pilot: Pilot[None]) -> str:
    return pilot.app.query_one(Composer).text


def screen(pilot: Pilot[None]) -> str:
    """What can be read, line by line."""
    width, height = pilot.app.size
    lines = pilot.app.screen._compositor.render_strips()[:height]
    return "\n".join(strip.text[:width].rstrip() for strip in lines)


def cue(pilot: Pilot[None]) -> str:
    return str(pilot.app.query_one(Status).render())
