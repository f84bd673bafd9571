"""At 50 x 20: models can be told apart, and help is broken between its phrases."""

from pathlib import Path

import pytest
from qwen35_chat.models import PUBLISHED
from qwen35_chat.screens.help_page import help_text
from qwen35_chat.screens.picker import Row
from textual.content import Content

from tests.app.drive import chat

SMALL = (50, 20)


async def test_every_model_has_its_whole_name(home: Path) -> None:
    async with chat(home, size=SMALL) as at:
        await at.press("ctrl+l")
        seen = ""
        for _ in range(len(PUBLISHED) + 3):
            seen += at.text
            await at.press("down")
        for known in PUBLISHED:
            assert f"{known.title} " in seen, known.title


def test_help_is_broken_between_phrases_and_never_within_a_word() -> None:
    lines = str(help_text({}, 44)).splitlines()
    assert all(len(line) <= 44 for line in lines if line.startswith("    "))
    assert "    stop the reply; what was said is kept" in lines
    at = lines.index("    find and open a conversation,")
    assert lines[at + 1] == "    by title or any words in it"


def test_a_row_drops_its_right_end_before_its_name() -> None:
    row = Row("x", Content("Qwen3.5 122B  more"), Content("1 GB  fits"), Content("fits"), 12)
    assert str(row.fitted(40)).endswith("1 GB  fits")
    assert str(row.fitted(20)) == "Qwen3.5 122B …  fits"


async def test_a_list_has_rows_in_the_smallest_terminal(home: Path) -> None:
    async with chat(home, size=(20, 10)) as at:
        await at.turn("first", "one")
        await at.press("ctrl+s")
        await at.until(lambda: "first" in at.text)


@pytest.mark.parametrize("width", [80, 110])
async def test_no_line_of_the_help_wraps_again(home: Path, width: int) -> None:
    async with chat(home, size=(width, 24)) as at:
        await at.press("f1")
        text = at.app.screen.query_one("#text")
        await at.until(lambda: "Everywhere in the chat" in at.text)
        lines = str(help_text({}, text.content_region.width)).split("\n")
        assert text.content_region.height == len(lines)


async def test_the_help_can_be_read_on_the_smallest_screen(home: Path) -> None:
    async with chat(home, size=(20, 10)) as at:
        await at.press("f1")
        await at.settled()
        rows = at.text.split("\n")
        text = [row.strip() for row in rows[1:-1] if row.strip()]
        assert len(text) >= 7
        assert text[:3] == ["Everywhere in the", "chat", "Enter"]
        assert "Esc goes back" in rows[-1]
        await at.press("pagedown")
        await at.settled()
        assert "send the" not in at.text
