"""Draw the pictures of docs/screens.md: the six main screens, with an engine that plays a script.

.venv/bin/python -m scripts.make_screens

Time, memory and the models on the machine are pinned, so that the files change only with the app.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import qwen35_chat.models
from qwen35_chat.app import ChatApp
from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.controller import Controller
from qwen35_chat.fake import FakeEngine
from qwen35_chat.models import LocalModels, ModelEntry
from qwen35_chat.screens import models
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.tools.folder import FolderServer
from qwen35_chat.tools.permissions import Permissions
from qwen35_chat.tools.toolbox import Toolbox
from textual.pilot import Pilot

from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Answer,
    Done,
    Event,
    Loaded,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from scripts.support.pictures import write_picture

FOLDER = Path(__file__).parents[1] / "docs" / "screens"
SIZE = (100, 32)
MODEL = "mlx-community/Qwen3.5-9B-MLX-4bit"
NOW = 1_764_000_000.0
DAY = 86_400.0
MEMORY = 24 * 2**30
CONTEXT = 32_768
USAGE = Usage(
    prompt_tokens=24,
    cached_tokens=0,
    reply_tokens=231,
    prefill_seconds=0.18,
    decode_seconds=4.9,
    peak_memory=6_900_000_000,
)
LOCAL = LocalModels((
    ModelEntry("demo", 15 * 10**6, 2_048, 500_000, Path("/demo"), max_context=8_192),
    ModelEntry(MODEL, 5_040 * 10**6, 32_768, 51_511_296, Path("/hub/9b"), max_context=262_144),
    ModelEntry(
        "unsloth/Qwen3.5-4B-GGUF/Qwen3.5-4B-Q4_K_M.gguf", 2_740 * 10**6, 32_768, 51_511_296,
        Path("/studio/4b.gguf"), max_context=262_144, program="LM Studio",
    ),
))  # fmt: skip
THOUGHTS = "The discriminant decides: first the formula, then the cases, then code."
ROOTS = r"""A quadratic has **at most two** real roots. With $a \ne 0$:

$$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$

| discriminant | real roots | example |
|---|---:|---|
| positive | 2 | `x**2 - 1` |
| zero | 1 | `x**2` |
| negative | 0 | `x**2 + 1` |

```python
def roots(a: float, b: float, c: float) -> list[float]:
    d = b * b - 4 * a * c
    if d < 0:
        return []
    return sorted({(-b - sqrt(d)) / (2 * a), (-b + sqrt(d)) / (2 * a)})
```

See [the proof](https://en.wikipedia.org/wiki/Quadratic_formula).
"""
PAST = (
    ("Longest rivers of Norway", "**Glomma** is the longest river, 621 km.", 40.0),
    ("Read a file line by line in Python", "Iterate over it: `for line in file:`", 8.0),
    ("A boat that sails on a river", "What about *Numa*?", 1.2),
    ("Packing list for Oslo", "Wool, wool, and a raincoat for the river trip.", 0.1),
    ("Roots of a quadratic", ROOTS, 0.004),
)


class Stage:
    """A running app, whose engine plays the events that it is given."""

    def __init__(self, app: ChatApp, engine: FakeEngine, pilot: Pilot[None]):
        self.app = app
        self.pilot = pilot
        self._engine = engine

    async def settle(self) -> None:
        """Wait until everything that was begun is shown."""
        for _ in range(6):
            await self.pilot.pause(0.1)
        while self.app.chat.transcript.colouring:
            await self.pilot.pause(0.1)

    async def play(self, events: Sequence[Event]) -> None:
        self._engine.play(events)
        await self.settle()

    async def send(self, text: str) -> None:
        self.app.chat.composer.set_text(text)
        await self.pilot.press("enter")
        await self.settle()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    async def turn(self, text: str, answer: str) -> None:
        await self.send(text)
        await self.play([PrefillProgress(0, 24, 0), Thinking(THOUGHTS)])
        await self.play([Answer(answer), Done("stop", USAGE, {})])

    def draw(self, name: str) -> None:
        svg = self.app.export_screenshot(title="qwen35-chat")
        write_picture(svg, FOLDER / f"{name}.svg")


@asynccontextmanager
async def stage(library: Library, toolbox: Toolbox | None = None) -> AsyncGenerator[Stage]:
    """A chat that begins with an empty conversation. Its own clock stands still."""
    settings = SettingsFile(None, {"model": MODEL, "theme": "dark"}, commands=SCOPE_OF)
    settings.load()
    engine = FakeEngine(library, model=MODEL, loads=False)
    controller = Controller(engine, library, settings, clock=lambda: 0.0, toolbox=toolbox)
    app = ChatApp(controller, clock=lambda: 0.0)
    try:
        async with app.run_test(size=SIZE) as pilot:
            at = Stage(app, engine, pilot)
            await at.settle()  # the engine starts after the first frame
            await at.play([Loaded(MODEL, CONTEXT, ("enable_thinking",))])
            yield at
    finally:
        controller.calls.close(5)


async def draw_all(library: Library, folder: Path) -> None:
    """Every picture. `folder` is what the model may read."""
    async with stage(library) as at:
        for title, said, days in PAST:
            with patch.object(time, "time", lambda days=days: NOW - days * DAY):
                await at.turn(title, said)
                await at.press("ctrl+n")
    async with stage(library) as at:
        at.draw("first")
        await at.press("ctrl+l")
        at.draw("models")
        await at.press("escape", "ctrl+s", *"river")
        at.draw("search")
    async with stage(library) as at:
        await at.turn("How do I find the roots of a quadratic?", ROOTS)
        at.draw("conversation")
        await at.send("/theme")
        await at.press("down", "down", "down", "down")
        at.draw("themes")
    tools = Toolbox({"folder": FolderServer(folder)}, Permissions())
    tools.start()
    async with stage(library, tools) as at:
        await at.send("What is in my notes of today?")
        await at.play([
            PrefillProgress(0, 24, 0),
            Thinking("The notes are a file: I have to read it first."),
            ToolCall("folder__read_file", {"path": "today.md"}),
            Done("tool_calls", USAGE, {}),
        ])  # fmt: skip
        at.draw("approval")


def main() -> None:
    with ExitStack() as pinned:
        root = Path(pinned.enter_context(tempfile.TemporaryDirectory()))
        library = pinned.enter_context(Library(root / "home"))
        (root / "notes").mkdir()
        for target, name, value in (
            (time, "time", lambda: NOW),
            (qwen35_chat.models, "machine_memory", lambda: MEMORY),
            (models, "local_models", lambda _: LOCAL),
        ):
            pinned.enter_context(patch.object(target, name, value))
        asyncio.run(draw_all(library, root / "notes"))


if __name__ == "__main__":
    main()
