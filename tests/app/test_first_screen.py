"""The first screen: what it offers, by mouse and by keys, and that it fits any terminal."""

from pathlib import Path

import pytest
from qwen35_chat.screens.first import DEMO_STARTERS, STARTERS
from qwen35_chat.widgets.first_screen import NAME

from qwen35_mlx.session.events import Failed, Loading
from tests.app.drive import Driver, chat

WORDMARK = NAME[0].strip()


def row_of(at: Driver, text: str) -> int:
    return next(n for n, line in enumerate(at.text.splitlines()) if text in line)


async def click(at: Driver, text: str) -> None:
    y = row_of(at, text)
    x = at.text.splitlines()[y].index(text)
    await at.pilot.click(offset=(x + 1, y))
    await at.settled()


async def test_a_starter_is_sent_by_a_click(home: Path) -> None:
    async with chat(home, demo=True) as at:
        assert WORDMARK in at.text
        await click(at, DEMO_STARTERS[1])
        assert at.sent == [DEMO_STARTERS[1]]
        assert WORDMARK not in at.text
        assert at.typed == ""
        assert at.composer.has_focus


async def test_a_starter_is_sent_by_keys(home: Path) -> None:
    async with chat(home, demo=True) as at:
        await at.press("tab", "down", "enter")
        assert at.sent == [DEMO_STARTERS[1]]
        assert at.composer.has_focus


async def test_escape_goes_back_and_a_letter_is_typed(home: Path) -> None:
    async with chat(home, demo=True) as at:
        await at.press("tab", "escape")
        assert at.composer.has_focus
        await at.press("tab", "H", "i")
        assert at.typed == "Hi"
        assert at.sent == []


async def test_a_starter_leaves_what_is_typed(home: Path) -> None:
    async with chat(home, demo=True) as at:
        await at.press(*"half a thought")
        await click(at, DEMO_STARTERS[0])
        assert at.sent == [DEMO_STARTERS[0]]
        assert at.typed == "half a thought"


async def test_a_recent_conversation_opens_by_a_click(home: Path) -> None:
    async with chat(home, size=(80, 36)) as at:
        await at.turn("Longest rivers of Norway", "Glomma")
        await at.press("ctrl+n")
        await at.shown()
        await at.until(lambda: "Go on with" in at.text)
        assert "Glomma" not in at.text
        await click(at, "Longest rivers")
        await at.shown()
        assert "Glomma" in at.text
        assert "Go on with" not in at.text


async def test_recent_conversations_and_completions_do_not_move_the_composer(home: Path) -> None:
    async with chat(home, size=(80, 36)) as at:
        before = at.composer.region.y
        await at.turn("Longest rivers of Norway", "Glomma")
        await at.press("ctrl+n")
        await at.shown()
        await at.until(lambda: "Go on with" in at.text)
        assert at.composer.region.y == before
        await at.press("/")
        assert at.app.chat.completions.display
        assert at.composer.region.y == before
        await at.press("backspace")
        await at.turn("hello", "so")
        assert at.composer.region.bottom >= at.app.size.height - 2
        await at.press("/")
        assert at.app.chat.completions.region.bottom <= at.composer.region.y


async def test_a_stored_conversation_opens_without_the_first_screen(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "so")
    async with chat(home, conversation=1, library=at.library) as at:
        assert WORDMARK not in at.text
        assert "so" in at.text


async def test_an_error_stands_above_the_composer_and_stays_with_the_rest(home: Path) -> None:
    async with chat(home, loads=False, size=(80, 30)) as at:
        await at.shown([Loading("org/model", 0.4), Failed("there is no such model: choose one")])
        assert "The model could not be loaded." in at.text
        assert row_of(at, "could not be loaded") < at.composer.region.y
        assert STARTERS[0] in at.text or DEMO_STARTERS[0] in at.text


@pytest.mark.parametrize("height", [8, 12, 16, 20, 24, 40])
async def test_composer_and_status_are_seen_at_any_size(home: Path, height: int) -> None:
    async with chat(home, demo=True, size=(120, height)) as at:
        await at.pilot.resize_terminal(20, height)
        await at.pilot.pause(0.05)
        assert at.composer.region.bottom <= height - 1, at.text
        assert at.composer.region.height >= 1, at.text
        assert "0%" in at.text.splitlines()[-1], at.text
        for width in (40, 50, 80, 200):
            await at.pilot.resize_terminal(width, height)
            await at.pilot.pause(0.05)
            lines = at.text.splitlines()
            assert "0%" in lines[-1], (width, at.text)
            assert "demo" not in lines[-1], (width, at.text)  # it is named once
            assert any("demo is" in line for line in lines), (width, at.text)
            assert at.composer.region.bottom <= height - 1, (width, at.text)
            assert (DEMO_STARTERS[2] in at.text) == (height >= 20), (width, at.text)
