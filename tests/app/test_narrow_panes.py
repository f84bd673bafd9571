"""A pane of any size: nothing ends the chat, and no line is wider than the pane."""

import random
from pathlib import Path

import pytest
from qwen35_chat.drawing.entries import ReplyEntry, TranscriptEntry, UserEntry
from qwen35_chat.drawing.line import Line
from qwen35_chat.drawing.line_breaks import LEAST_LINE
from qwen35_chat.drawing.wrapping import wrap
from qwen35_chat.graphemes import graphemes
from rich.cells import cell_len
from textual.content import Content
from textual.geometry import Size

from tests.app.clusters import CLUSTERS, PIECES
from tests.app.drive import chat

TEXT = (
    "# 标题\n\n"
    + " ".join(CLUSTERS.values())
    + "\n\n- 一\n  - 二\n    > 三\n\n| 甲 | 乙 |\n|-|-|\n"
    "| 丙⚠️ | 1️⃣ |\n\n```python\nprint('👨‍👩‍👧')\n```\n\n$$\\frac{a}{b}$$\n\n---\n\n**注意：**https://a.bc/d，好"
)


async def test_a_pane_of_a_few_cells_does_not_end_the_chat(home: Path) -> None:
    async with chat(home, size=(40, 12)) as at:
        await at.turn("看👨‍👩‍👧，好", TEXT)
        for key in ("", "ctrl+s"):
            await at.pilot.resize_terminal(40, 12)
            if key:
                await at.press(key)
            for size in ((4, 6), (3, 3), (1, 9)):
                await at.pilot.resize_terminal(*size)
                compositor = at.app.screen._compositor
                await at.until(lambda view=compositor, size=size: view.size == Size(*size))
                strips = compositor.render_strips()
                assert all(strip.cell_length == size[0] for strip in strips), (key, size)
            await at.press("escape", *"你a", "left", "backspace", "delete")
            assert at.app.is_running


def lines_of(entry: TranscriptEntry, width: int) -> list[Line]:
    return [line for part in entry.column(width).parts for line in part.lines(width)]


@pytest.mark.parametrize("width", [*range(3, 12), *range(12, 81, 7), 80])
def test_no_line_of_a_message_is_wider_than_it_may_be(width: int) -> None:
    """In one or two cells there is no room for a margin, and the screen cuts it."""
    random_ = random.Random(width)
    pieces = [piece for piece in PIECES if len(piece) < LEAST_LINE]
    texts = [TEXT, *("".join(random_.choices(pieces, k=60)) for _ in range(8))]
    for text in texts:
        reply = ReplyEntry(thinking=text, answer=text, view="open")
        for line in [*lines_of(reply, width), *lines_of(UserEntry(text), width)]:
            shown = line.content.plain
            body = graphemes(shown[line.prefix :].rstrip())
            assert cell_len(shown.rstrip()) <= width or len(body) <= 1, (width, ascii(shown))


@pytest.mark.parametrize("seed", range(4))
def test_no_character_of_a_message_is_cut(seed: int) -> None:
    random_ = random.Random(seed)
    text = "".join(random_.choices([*CLUSTERS.values(), *"ab字，（"], k=80))
    whole = list(graphemes(text))
    for width in range(1, 81):
        shown = [line.content.plain for line in wrap(Content(text), width)]
        assert [cluster for line in shown for cluster in graphemes(line)] == whole
