"""Pictures of the screen, which show an unintended change as a difference.

`scripts/test tests/app --snapshot-update` renews them; look at each before it is committed. Time,
memory and folders are pinned, so that they are the same on any machine.
"""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from qwen35_chat.fake import done
from qwen35_chat.models import PUBLISHED, LocalModels, ModelEntry
from qwen35_chat.screens import models
from qwen35_chat.tools.calls import ToolResult
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Failed,
    Loading,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from tests.app.drive import Clock, Driver, chat, reply
from tests.app.tools.drive import ScriptedServer, toolbox

LIST = """Three rivers of Norway, by length:

1. **Glomma**, 621 km, from Aursunden to Fredrikstad
2. **Tana**, 361 km, along the border with Finland
3. **Numedalslågen**, 352 km, through `Kongsberg`

> Lengths differ by a few kilometres between sources.
"""
CODE = """Read the file line by line, so that its size does not matter:

```python
from pathlib import Path


def longest_line(path: Path) -> str:
    \"\"\"The longest line of a text file; "" of an empty one.\"\"\"
    with path.open(encoding="utf-8") as lines:
        return max(lines, key=len, default="")
"""
TABLE = """| river | length | basin | source | mouth | what it is known for |
|---|---|---|---|---|---|
| Glomma | 621 km | 42,000 km² | Aursunden | Fredrikstad | timber floating until 1985 |
| Tana | 361 km | 16,389 km² | Iešjohka and Kárášjohka | Tanafjord | the largest salmon river |
| Numedalslågen | 352 km | 5,577 km² | Hardangervidda | Larvik | power stations and salmon |
| Drammenselva | 48 km | 17,034 km² | Tyrifjorden | Drammen | paper mills |
"""
LOCAL = LocalModels((
    ModelEntry("demo", 15 * 10**6, 2_048, 500_000, Path("/demo"), max_context=8_192),
    ModelEntry(
        "mlx-community/Qwen3.5-4B-MLX-4bit", 2_370 * 10**6, 32_768, 51_511_296, Path("/hub/4b"),
        max_context=262_144,
    ),
    ModelEntry(
        "unsloth/Qwen3.5-9B-GGUF/Qwen3.5-9B-Q4_K_M.gguf", 5_680 * 10**6, 32_768, 51_511_296,
        Path("/studio/9b.gguf"), max_context=262_144, program="LM Studio",
    ),
))  # fmt: skip


class Svg(SingleFileSnapshotExtension):
    """One SVG file a test."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT


class Download:
    """A download that makes no progress."""

    def __init__(self, name: str):
        self.name = name
        self.done, self.total = 2_100_000_000, 5_040_000_000
        self.folder = self.error = ""
        self.cancelled = False
        self.running = True
        self.fraction = self.done / self.total
        self.seconds_left = 95.0

    def close(self) -> None:
        pass


@pytest.fixture
def pinned(home: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Pin memory, models and the time of day, which the test may change."""
    clock = Clock()
    clock.now = 1_764_000_000.0
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr("qwen35_chat.models.machine_memory", lambda: 24 * 2**30)
    monkeypatch.setattr(models, "local_models", lambda _: LOCAL)

    for name in ("NO_COLOR", "COLORFGBG", "TEXTUAL_THEME"):
        monkeypatch.delenv(name, raising=False)
    return clock


@pytest.fixture
def same(snapshot: Any) -> Any:
    """Compares the screen with its picture."""

    async def compare(at: Driver) -> bool:
        await at.pilot.pause(0.05)
        svg = at.app.export_screenshot(title="qwen35-chat")
        # A checksum of the content, clickable parts' numbers included, that is on every element.
        svg = re.sub(r"terminal-\d+", "terminal", svg)
        # Fonts from elsewhere.
        svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
        return svg == snapshot.use_extension(Svg)

    return compare


@asynccontextmanager
async def screen(
    home: Path, size: tuple[int, int] = (80, 24), **how: Any
) -> AsyncGenerator[Driver]:
    async with chat(home, size=size, **how) as at:
        yield at


def themed(home: Path, theme: str) -> Path:
    file = home / "settings.toml"
    file.write_text(f'theme = "{theme}"\n', encoding="utf-8")
    return file


async def test_empty(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        assert await same(at)


async def test_first_run(home: Path, pinned, same) -> None:
    async with screen(home, demo=True) as at:
        assert await same(at)


async def test_loading(home: Path, pinned, same) -> None:
    async with screen(home, loads=False) as at:
        await at.send("Are you there?")
        await at.shown([Loading("mlx-community/Qwen3.5-4B-MLX-4bit", 0.4)])
        assert await same(at)


async def test_prefill_at_40_percent(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.turn("Which are the longest rivers of Norway?", LIST)
        await at.send("Translate the whole book, chapter by chapter.")
        await at.shown([PrefillProgress(512, 3_584, 512)])
        at.clock.now = 12.0
        await at.shown([PrefillProgress(1_434, 3_584, 512)])
        assert await same(at)


async def thought(at: Driver) -> None:
    await at.send("Which are the longest rivers of Norway?")
    await at.shown([Thinking("The user asks for the longest rivers.\n\nGlomma is the longest, ")])
    at.clock.now = 4.2
    await at.shown([Thinking("then come Tana and Numedalslågen.")])
    await at.shown([Answer(LIST), done(prompt=412, reply=148)])


async def test_thinking_closed(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await thought(at)
        assert await same(at)


async def test_thinking_open(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await thought(at)
        await at.press("ctrl+o")
        at.clock.now = 60.0
        await at.shown()
        assert await same(at)


async def test_an_open_fence(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.send("How do I find the longest line of a file?")
        await at.shown([Answer(CODE[:20])])
        at.clock.now = 2.0
        await at.shown([Answer(CODE[20:])])
        assert await same(at)


async def test_finished_code(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.turn("How do I find the longest line of a file?", CODE + "```\n")
        await at.until(lambda: not at.transcript.colouring)
        assert await same(at)


async def test_a_long_table(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.turn("The same as a table, please.", TABLE)
        assert await same(at)


async def test_cancelled(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.send("Tell me a story.")
        await at.shown([Answer("Once upon a time there was a river that"), Cancelled()])
        assert await same(at)


async def test_an_error_in_place(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.turn("Hello!", "Hello. What can I do for you?")
        await at.send("Read the whole of this book to me.")
        await at.shown(
            [
                PrefillProgress(0, 3_100, 0),
                Failed("the prompt needs 31 GB of memory, and 24 GB are there: shorten it"),
            ]
        )
        assert await same(at)


async def several(at: Driver, pinned: Clock) -> None:
    """Conversations from several days."""
    for title, said, days in (
        ("Longest rivers of Norway", LIST, 12.0),
        ("How do I read a file line by line in Python, and how fast is it?", CODE + "```", 1.2),
        ("A name for a boat that sails on a river", "What about *Numa*?", 0.2),
        ("Packing list for Oslo", "Wool, wool, and a raincoat.", 0.001),
    ):
        pinned.now = 1_764_000_000.0 - days * 86_400
        await at.turn(title, said)
        await at.press("ctrl+n")
        await at.shown()
    pinned.now = 1_764_000_000.0


async def test_the_list_of_conversations(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await several(at, pinned)
        await at.press("ctrl+s")
        assert await same(at)


async def test_search(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await several(at, pinned)
        await at.press("ctrl+s", *"river")
        assert await same(at)


async def test_the_list_of_models(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.press("ctrl+l")
        assert await same(at)


async def test_models_while_one_is_downloaded(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        at.controller.download = Download(PUBLISHED[3].name)  # pyright: ignore[reportAttributeAccessIssue]
        await at.press("ctrl+l")
        await at.until(lambda: "To download" in at.text)
        await at.press("down")
        await at.until(lambda: "2.1 GB of 5.0 GB" in at.text)
        assert await same(at)


async def test_the_list_of_settings(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.send("/preset precise")
        await at.press("f2")
        assert await same(at)


async def test_the_keys(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.press("f1")
        assert await same(at)


async def test_completion_of_a_command(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.press("/")
        assert await same(at)


async def test_a_small_terminal(home: Path, pinned, same) -> None:
    async with screen(home, (50, 20)) as at:
        await at.turn("Which are the longest rivers of Norway?", LIST)
        await at.press(*"And of Sweden?")
        assert await same(at)


async def test_the_light_theme(home: Path, pinned, same) -> None:
    async with screen(home, settings=themed(home, "light")) as at:
        await at.turn("How do I find the longest line of a file?", CODE + "```\n", thinking="hm")
        await at.press("tab")
        assert await same(at)


async def test_the_terminals_own_colours(home: Path, pinned, same) -> None:
    async with screen(home, settings=themed(home, "ansi")) as at:
        await at.turn("How do I find the longest line of a file?", CODE + "```\n", thinking="hm")
        await at.press("tab")
        assert await same(at)


async def test_a_list_in_the_terminals_own_colours(home: Path, pinned, same) -> None:
    async with screen(home, settings=themed(home, "ansi")) as at:
        await at.turn("Which are the longest rivers of Norway?", LIST)
        await at.press("ctrl+l")
        assert await same(at)


async def test_versions(home: Path, pinned, same) -> None:
    async with screen(home) as at:
        await at.turn("A name for a boat?", "*Numa*.")
        await at.press("f5")
        await at.shown(reply("*Glomma*, after the river."))
        await at.press("f4")
        assert await same(at)


async def asking_for_a_tool(at: Driver, files: ScriptedServer) -> None:
    """The second of two calls waits for an answer."""
    await at.send("Which chapters has the book?")
    listing = ToolCall("book__list_files", {"path": "chapters"})
    reading = {"path": "chapters/01 [draft].md", "note": "Zeilen für \u202eÄnderung"}
    thoughts = Thinking("I need the list of files first.")
    await at.shown([thoughts, listing, ToolCall("book__read_file", reading), done("tool_calls")])
    at.clock.now += 2.0
    await at.press("down", "enter")
    files.futures[0].set_result(ToolResult("01 [draft].md 8312\n02 storm.md 9120\nnotes/"))
    await at.shown()
    at.clock.now += 2.0


@pytest.fixture
def book() -> ScriptedServer:
    return ScriptedServer("book", "list_files", "read_file", description="Of one folder.")


@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_a_question_about_a_tool(theme, home: Path, pinned, same, book) -> None:
    async with screen(home, settings=themed(home, theme), toolbox=toolbox(book)) as at:
        await asking_for_a_tool(at, book)
        await at.press("down")
        assert await same(at)


async def test_a_result_of_a_tool(home: Path, pinned, same, book) -> None:
    async with screen(home, toolbox=toolbox(book)) as at:
        await asking_for_a_tool(at, book)
        await at.press("down", "down", "down", "enter")
        await at.shown(reply("There are **two** chapters; I may not read them."))
        assert await same(at)


async def test_tools(home: Path, pinned, same, book) -> None:
    tools = toolbox(book)
    tools.allow(tools.offered()[0].tool, "always")
    async with screen(home, toolbox=tools) as at:
        await at.send("/tools")
        await at.settled()
        assert await same(at)
