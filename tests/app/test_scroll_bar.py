"""The scrollbar of the conversation: drawn when it has to change, and then as Textual's own."""

import random
from pathlib import Path

import pytest
from qwen35_chat.drawing.entries import NoticeEntry
from qwen35_chat.widgets.scroll_bar import SteadyScrollBar
from textual.geometry import Size
from textual.scrollbar import ScrollBar, ScrollBarRender

from tests.app.drive import chat


class Bar(SteadyScrollBar):
    """One of a given height, outside an app."""

    height = 0

    @property
    def size(self) -> Size:
        return Size(1, self.height)


def test_what_textual_draws_depends_on_the_thumb_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    bar, drawn = Bar(), {}
    for _ in range(3_000):
        bar.height = rng.choice((1, 2, 7, 35))
        window = rng.choice((0, 1, bar.height, bar.height + 3))
        whole = rng.choice((window, window + 1, window + 9, rng.randrange(1, 900)))
        at = rng.randrange(0, 8 * max(whole - window, 0) + 1) / 8
        for name, value in (
            ("window_size", window),
            ("window_virtual_size", whole),
            ("position", at),
        ):
            bar.set_reactive(getattr(SteadyScrollBar, name), value)
        cells = ScrollBarRender.render_bar(
            size=bar.height,
            virtual_size=whole,
            window_size=window if window < whole else 0,  # as `ScrollBar` does
            position=at,
        )
        text = [(cell.text, cell.style) for cell in cells.segments]
        assert drawn.setdefault((bar.height, bar.thumb), text) == text


async def test_it_is_drawn_again_only_once_its_thumb_moves(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    render = ScrollBar.render

    def count(bar: ScrollBar) -> object:
        drawn.append(bar)
        return render(bar)

    async with chat(home) as at:
        await at.turn("Hi", "Hello")
        view = at.app.chat.transcript
        view.show(NoticeEntry(f"Notice {number}") for number in range(900))
        await at.settled()
        monkeypatch.setattr(ScrollBar, "render", count)
        rows = view.rows.height
        view.add(NoticeEntry("One more"))
        await at.settled()
        assert view.rows.height > rows
        bar = view.vertical_scrollbar
        assert (bar.window_virtual_size, bar.position) == (view.rows.height, view.max_scroll_y)
        assert not drawn  # it is at the end, and as short as it gets
        view.scroll_to(y=0, animate=False)
        await at.settled()
        assert drawn
