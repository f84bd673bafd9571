"""A long text on a page: every line can be reached, and few are drawn."""

import time

from qwen35_chat.widgets.long_text import LongText
from textual.app import App, ComposeResult

LINES = 20_000


class Page(App[None]):
    CSS = "LongText { height: 10; overflow-x: hidden; scrollbar-gutter: stable; }"

    def __init__(self, text: str):
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield LongText(self._text)

    @property
    def lines(self) -> list[str]:
        text = self.query_one(LongText)
        return [text.render_line(y).text.rstrip() for y in range(10)]


async def test_all_lines_can_be_reached_and_long_ones_are_cut() -> None:
    page = Page("\n".join(["", "a\tb", "x" * 30, "漢" * 12, "[red]\x1b", *"1234567", "end"]))
    async with page.run_test(size=(21, 12)) as pilot:
        first = ["", "a       b", "x" * 19, "x" * 11, "漢" * 9, "漢" * 3, "[red]␛", "1", "2", "3"]
        assert page.lines == first
        while not page.query_one(LongText).show_vertical_scrollbar:
            await pilot.pause(0.01)
        page.query_one(LongText).scroll_end(animate=False, immediate=True)
        await pilot.pause()
        assert page.lines[-1] == "end"
        await pilot.resize_terminal(41, 12)
        while page.query_one(LongText).size.width < 41:
            await pilot.pause(0.01)
        page.query_one(LongText).scroll_home(animate=False, immediate=True)
        await pilot.pause()
        assert page.lines[2] == "x" * 30


async def test_a_text_of_many_lines_is_shown_at_once() -> None:
    page = Page("")
    async with page.run_test(size=(80, 24)) as pilot:
        text = "\n".join(map(str, range(LINES)))
        began = time.perf_counter()
        page.query_one(LongText).show(text)
        await pilot.pause()
        # `Static` takes ten seconds for as many.
        assert time.perf_counter() - began < 2
        assert page.query_one(LongText).virtual_size.height == LINES
        assert page.lines[9] == "9"
