"""Inputs move and delete by characters as a reader sees them, and by words of any script."""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import regex
from qwen35_chat.drawing.line_breaks import LEAST_LINE
from qwen35_chat.textual_editing import LiteralInput, LiteralTextArea
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widget import Widget

from qwen35_mlx.terminal import one_cell
from tests.app.clusters import CLUSTERS, PIECES

KINDS = (LiteralInput, LiteralTextArea)
SEED = 3
CONTROLS = ["\x1b", "\x00", "\x9b", "\u202e", "\x1b[A"]
LEFT, RIGHT = "cursor_left", "cursor_right"
SELECT_LEFT, SELECT_RIGHT = f"{LEFT}(True)", f"{RIGHT}(True)"


class Page(App[None]):
    CSS = "LiteralTextArea { border: none; padding: 0; height: 8; scrollbar-size: 0 0; }"

    def __init__(self, kind: type[LiteralInput] | type[LiteralTextArea]):
        super().__init__()
        self.kind = kind

    def compose(self) -> ComposeResult:
        yield self.kind()


class Typing:
    """An input, its keys and its text."""

    def __init__(self, pilot: Pilot[None], widget: LiteralInput | LiteralTextArea):
        self.pilot, self.widget = pilot, widget

    async def keys(self, text: str, *keys: str) -> str:
        """The text after some keys, with "|" where the cursor is; it begins at the end."""
        self.put(text)
        await self.pilot.press(*keys)
        return self.shown

    async def actions(self, text: str, *actions: str) -> str:
        """As `keys`, by the actions of these, which takes less time."""
        self.put(text)
        for action in actions:
            await self.widget.run_action(action)
        return self.shown

    def put(self, text: str) -> None:
        if isinstance(self.widget, LiteralInput):
            self.widget.value = text
            self.widget.cursor_position = len(text)
        else:
            self.widget.load_text(text)
            self.widget.move_cursor(self.widget.document.end)

    @property
    def shown(self) -> str:
        if isinstance(self.widget, LiteralInput):
            text, at = self.widget.value, self.widget.cursor_position
        else:
            text, at = self.widget.text, len(self.widget.get_text_range((0, 0), self.cursor))
        return f"{text[:at]}|{text[at:]}"

    @property
    def cursor(self) -> tuple[int, int]:
        assert isinstance(self.widget, LiteralTextArea)
        return self.widget.cursor_location


@asynccontextmanager
async def typing(kind, width: int = 60) -> AsyncGenerator[Typing]:
    page = Page(kind)
    async with page.run_test(size=(width, 10)) as pilot:
        yield Typing(pilot, page.query_one(kind))


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_go_and_delete_by_what_is_seen_as_a_character(kind: type[Widget]) -> None:
    async with typing(kind) as at:
        for seen in CLUSTERS.values():
            text = f"a{seen}b"
            for actions, expected in {
                (LEFT, LEFT): f"a|{seen}b",
                (LEFT, LEFT, RIGHT): f"a{seen}|b",
                (LEFT, "delete_left"): "a|b",
                (LEFT, LEFT, "delete_right"): "a|b",
                (LEFT, SELECT_LEFT, "delete_left"): "a|b",
                (LEFT, LEFT, SELECT_RIGHT, "delete_right"): "a|b",
            }.items():
                assert await at.actions(text, *actions) == expected, ascii((seen, actions))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "keys", "result"),
    [
        ("请把这个文件保存", ["ctrl+w"], "请把这个文件|"),
        ("请把这个文件保存", ["ctrl+w", "ctrl+w"], "请把这个|"),
        ("我们喜欢北京。", ["ctrl+w"], "我们喜欢北京|"),
        ("モデルを使います", ["home", "ctrl+right"], "モデル|を使います"),
        ("モデルを使います", ["ctrl+left"], "モデルを使い|ます"),
        ("ภาษาไทยไม่มีช่อง", ["ctrl+w"], "ภาษาไทยไม่มี|"),
        ("使用Python编写", ["ctrl+w", "ctrl+w"], "使用|"),
        ("one two  ", ["ctrl+w"], "one |"),
        ("one two", ["ctrl+left", "ctrl+left"], "|one two"),
        ("one two", ["home", "ctrl+right"], "one| two"),
        ("我们喜欢北京", ["home", "ctrl+shift+right", "delete"], "|喜欢北京"),
        ("我们喜欢北京", ["ctrl+shift+left", "x"], "我们喜欢x|"),
        ("e\u0301te\u0301 👨‍👩‍👧", ["ctrl+w"], "e\u0301te\u0301 |"),
    ],
)
async def test_words(kind: type[Widget], text: str, keys: list[str], result: str) -> None:
    async with typing(kind) as at:
        assert await at.keys(text, *keys) == result


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_word_is_deleted(kind: type[Widget]) -> None:
    action = "delete_right_word" if kind is LiteralInput else "delete_word_right"
    async with typing(kind) as at:
        assert await at.keys("我们喜欢 北京", "home", "right", "right") == "我们|喜欢 北京"
        for rest in (" 北京", ""):
            await at.widget.run_action(action)
            assert at.shown == f"我们|{rest}"


async def test_words_go_over_the_ends_of_lines() -> None:
    async with typing(LiteralTextArea) as at:
        assert await at.keys("一\n二", "home", "ctrl+w") == "一|二"
        assert await at.keys("一\n二", "up", "end", "alt+delete") == "一|二"
        assert await at.keys("一\n二", "up", "end", "ctrl+right") == "一\n|二"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_character_typed_before_a_mark_stays_before_what_is_typed_next(
    kind: type[Widget],
) -> None:
    async with typing(kind) as at:
        assert await at.keys("\u0301", "home", "e", "x") == "e\u0301x|"


async def test_up_and_down_and_a_click_go_to_whole_characters() -> None:
    family, heart = CLUSTERS["family"], CLUSTERS["heart"]
    async with typing(LiteralTextArea) as at:
        assert await at.keys(f"{family}{family}b\nxxxx", "up") == f"{family}{family}|b\nxxxx"
        assert await at.keys(f"{heart}{heart}b\nxxxx", "up") == f"{heart}{heart}|b\nxxxx"
        for x, expected in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (9, 3)):
            await at.keys(f"{heart}{heart}b")
            await at.pilot.click(LiteralTextArea, offset=(x, 0))
            assert at.cursor[1] == [0, 2, 4, 5][expected]


async def test_end_stays_in_a_line_that_ends_with_a_cluster() -> None:
    flag = CLUSTERS["flag"]
    async with typing(LiteralTextArea, 7) as at:
        assert await at.keys(flag * 6, "up", "home", "end") == flag * 2 + "|" + flag * 4
        assert await at.keys(flag * 6, "end") == flag * 6 + "|"


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 20, 41])
async def test_no_line_is_wider_than_the_area_and_no_character_is_cut(width: int) -> None:
    random_ = random.Random(SEED)
    pieces = [piece for piece in PIECES if len(piece) < LEAST_LINE]
    async with typing(LiteralTextArea, width) as at:
        area = at.widget
        assert isinstance(area, LiteralTextArea)
        for _ in range(12):
            text = "".join(random_.choices([*pieces, *CONTROLS, "\t", "\n"], k=30))
            await at.keys(text, *random_.choices(["up", "home", "end", "left", "backspace"], k=2))
            for y in range(8):
                assert area.render_line(y).cell_length == area.size.width
            for row, line in enumerate(area.document.lines):
                edges = {0}
                for cluster in regex.findall(r"\X", line):
                    edges.add(max(edges) + len(cluster))
                assert {*area.wrapped_document.get_offsets(row)} <= edges
                shown = one_cell(line)
                for start, end in pairwise([0, *area.wrapped_document.get_offsets(row), len(line)]):
                    section = shown[start:end]
                    if "\t" not in section and width > 1 and len(regex.findall(r"\X", section)) > 1:
                        assert cell_len(section.removesuffix("\u3000")) <= width
                if row == at.cursor[0]:
                    assert at.cursor[1] in edges


async def test_control_characters_have_a_cell_wherever_it_is_measured() -> None:
    async with typing(LiteralTextArea, 10) as at:
        area = at.widget
        assert isinstance(area, LiteralTextArea)
        await at.keys("\x1b\x00a" * 5)
        shown = [area.render_line(y).text.rstrip() for y in range(3)]
        assert shown == ["␛␀a␛␀a␛␀a", "␛␀a␛␀a", ""]
        assert area.wrapped_document.location_to_offset((0, 14)).x == 5
        assert area.get_column_width(0, 14) == 14
        assert await at.keys("\x1b\x00a" * 5, "up") == "\x1b\x00a" * 2 + "|" + "\x1b\x00a" * 3
        await at.pilot.click(area, offset=(3, 0))
        assert at.cursor == (0, 3)
    async with typing(LiteralInput, 40) as at:
        assert isinstance(at.widget, LiteralInput)
        await at.keys("abc")
        usual = at.widget.cursor_screen_offset
        assert await at.keys("\x1b\x00a") == "\x1b\x00a|"
        assert at.widget.cursor_screen_offset == usual
        for cell, place in enumerate((0, 1, 2, 3, 3)):
            await at.pilot.click(
                at.widget, offset=(at.widget.gutter.left + cell, at.widget.gutter.top)
            )
            assert at.widget.cursor_position == place


async def test_the_cursor_covers_the_whole_character() -> None:
    async with typing(LiteralTextArea) as at:
        for name in ("family", "heart", "keycap", "jamo"):
            await at.keys(f"a{CLUSTERS[name]}b", "left", "left")
            texts = [segment.text for segment in at.widget.render_line(0)]
            assert CLUSTERS[name] in texts, name


async def test_a_chinese_line_is_broken_inside_and_keeps_its_punctuation() -> None:
    async with typing(LiteralTextArea, 13) as at:
        await at.keys("Python 这是很长，的句子")
        assert isinstance(at.widget, LiteralTextArea)
        assert at.widget.wrapped_document.get_sections(0) == ["Python 这是", "很长，的句子"]


async def test_a_long_line_is_broken_once() -> None:
    """A key in one line does not break the others again."""
    async with typing(LiteralTextArea, 20) as at:
        await at.keys("\n".join(f"第{n}行" * 9 for n in range(50)))
        assert isinstance(at.widget, LiteralTextArea)
        known = dict(at.widget.wrapped_document._known)
        await at.pilot.press("x")
        after = at.widget.wrapped_document._known
        assert sum(known.get(line) is not broken for line, broken in after.items()) == 1
