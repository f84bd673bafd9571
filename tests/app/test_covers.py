"""Lists and questions that cover the chat: their size, their keys, and the way out by mouse."""

import time
from pathlib import Path

import pytest
from qwen35_chat.screens.conversations import ConversationList
from qwen35_chat.screens.moments import period_of
from qwen35_chat.screens.picker import Cover, Picker, Row
from qwen35_chat.screens.snippets import without_marks
from qwen35_chat.screens.themes import ThemeList
from qwen35_chat.widgets.key_hints import KEY_STYLE, with_keys
from qwen35_chat.widgets.selecting import AGAIN_SECONDS
from textual import events
from textual.content import Content

from qwen35_mlx.library.checksums import update
from qwen35_mlx.library.search import Snippet
from tests.app.drive import Driver, chat
from tests.app.mouse import Mouse
from tests.library.messages import add_message

DAY = 86_400.0
NOON = 1_764_072_000.0  # in UTC


def row_of(at: Driver, text: str) -> int:
    return next(n for n, line in enumerate(at.text.splitlines()) if text in line)


async def test_a_list_is_as_high_as_its_rows_and_keeps_its_line_to_search_in(home: Path) -> None:
    async with chat(home, size=(80, 40)) as at:
        for n in range(9):
            add_message(at.library, at.library.create(), None, "user", f"number {n} of many")
        await at.press("ctrl+s")
        picker = at.app.screen.query_one("#picker")
        assert "number 0 of" in at.text
        search, high = row_of(at, "Search titles"), picker.size.height
        await at.press(*"8")
        await at.until(lambda: picker.size.height < high - 5)
        assert row_of(at, "  8") == search
        assert row_of(at, "Enter opens") < search + 8
        await at.press("backspace")
        await at.until(lambda: picker.size.height == high)


async def test_a_list_with_hints_of_two_lines_shows_all_its_rows(home: Path) -> None:
    async with chat(home, size=(50, 40)) as at:
        for n in range(5):
            add_message(at.library, at.library.create(), None, "user", f"number {n}")
        await at.press("ctrl+s")
        assert all(f"number {n}" in at.text for n in range(5))
        assert "Ctrl+O export" in at.text


@pytest.mark.parametrize("height", [10, 16, 24])
async def test_a_list_fits_a_low_terminal(home: Path, height: int) -> None:
    async with chat(home, size=(80, height)) as at:
        await at.press("ctrl+p")
        await at.pilot.pause(0.05)
        assert at.app.screen.query_one("#picker").region.bottom <= height
        assert "Enter runs it" in at.text or height < 12


async def test_a_click_beside_a_list_leaves_it_and_one_inside_does_not(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml", size=(100, 30)) as at:
        mouse = Mouse(at)
        await at.turn("one", "so")
        await at.press("ctrl+s")
        await mouse.click(20, row_of(at, "Conversations"))
        assert isinstance(at.app.screen, ConversationList)
        await mouse.click(1, 15)
        assert at.app.screen is at.app.chat
        # A theme that was only tried is given up.
        await at.send("/theme")
        await at.press("down", "down")
        assert isinstance(at.app.screen, ThemeList)
        assert at.app.theme == "qwen-light"
        await mouse.click(10, 10)
        assert at.app.theme == "qwen-dark"
        await at.press("f1")
        await mouse.click(1, 1)
        assert at.app.screen is at.app.chat


@pytest.mark.parametrize("key", ["ctrl+s", "ctrl+l", "f2", "ctrl+p", "f1"])
async def test_what_comes_after_the_end_of_a_list_does_nothing(home: Path, key: str) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press(key)
        cover = at.app.screen
        assert isinstance(cover, Cover)
        cover.dismiss(None)
        cover.dismiss(None)  # another Enter
        await at.pilot.pause()
        if isinstance(cover, Picker):
            cover.reload()
            cover.on_resize()
            cover.action_move(1)
            cover.action_command("session_delete")
            cover._show_rows([], None)
        await at.settled()
        assert at.app.screen is at.app.chat
        await at.press(*"typed")
        assert at.typed == "typed"


async def test_a_list_may_be_left_before_it_is_there(home: Path) -> None:
    async with chat(home) as at:
        cover = Picker("Of one row", lambda _: [Row("1", Content("one"))])
        at.app.push_screen(cover)
        cover.dismiss(None)
        await at.settled()
        assert at.app.screen is at.app.chat


async def test_conversations_stand_below_their_days(home: Path) -> None:
    async with chat(home) as at:
        await at.press("ctrl+s")
        assert "No conversation yet: what you send begins one" in at.text
        await at.press("escape")
        await at.turn("about rivers", "so")
        await at.press("ctrl+s")
        assert row_of(at, "about rivers  2 messages") == row_of(at, "Today") + 1
        # A heading is never chosen.
        await at.press("up", "enter")
        assert at.app.screen is at.app.chat


@pytest.mark.parametrize(
    ("ago", "period"),
    [
        (0.0, "Today"),
        (-1.0, "Today"),  # a clock that was set back
        (1.0, "Yesterday"),
        (2.0, "The last seven days"),
        (6.0, "The last seven days"),
        (7.0, "The last 30 days"),
        (29.0, "The last 30 days"),
        (30.0, "Earlier"),
    ],
)
def test_periods_are_of_whole_days(ago: float, period: str) -> None:
    assert period_of(NOON - ago * DAY, NOON) == period


async def test_a_conversation_of_a_clock_that_was_ahead_goes_with_those_before_it(
    home: Path,
) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.turn("about rivers", "so")
        later = time.time() + 400 * DAY
        with at.library.transaction() as db:
            update(db, "conversations", 1, {"updated": later})
        await at.press("ctrl+n")
        await at.turn("about lakes", "so")
        await at.press("ctrl+s")
        assert row_of(at, "about lakes  2 messages") == row_of(at, "Today") + 1
        assert row_of(at, "about rivers  2 messages") == row_of(at, "Today") + 2
        assert at.text.count("Today") == 1
        assert time.strftime("%Y-%m-%d", time.localtime(later)) in at.text


async def test_a_found_message_that_is_the_title_is_shown_once(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.turn("A boat on a river", "so")
        await at.press("ctrl+n")
        await at.shown()
        await at.turn("Rain", "It fills the **river** at `night`.")
        await at.press("ctrl+s", *"river")
        await at.until(lambda: "boat" in at.text)
        (line,) = [line for line in at.text.splitlines() if "boat" in line]
        assert line.count("A boat on a river") == 1
        assert "Rain  It fills the river at night." in at.text


@pytest.mark.parametrize(
    ("text", "spans", "shown", "moved"),
    [
        ("**Glomma** is long", ((2, 8),), "Glomma is long", ((0, 6),)),
        ("a `b` **c d** e", ((8, 11), (14, 15)), "a b c d e", ((4, 7), (8, 9))),
        ("2**10 or x ** 2 ** 3", (), "2**10 or x ** 2 ** 3", ()),
        ("f(*a, **b)", (), "f(*a, **b)", ()),
        ("**open", ((0, 6),), "**open", ((0, 6),)),
        ("`**a**`", ((0, 7),), "**a**", ((0, 5),)),
    ],
)
def test_marks_around_words_are_left_out_and_hits_stay_marked(
    text: str, spans: tuple[tuple[int, int], ...], shown: str, moved: tuple[tuple[int, int], ...]
) -> None:
    assert without_marks(Snippet(text, spans)) == Snippet(shown, moved)


async def test_the_model_in_use_is_marked_at_first(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        at.controller.model = "mlx-community/Qwen3.5-2B-MLX-4bit"
        await at.press("ctrl+l")
        await at.until(lambda: "To download" in at.text)
        assert at.app.screen.marked == at.controller.model  # pyright: ignore[reportAttributeAccessIssue]
        assert "KL: distance from" in at.text
        assert "On this machine" in at.text
        await at.press(*"27B")
        assert at.app.screen.marked != at.controller.model  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("hint", "keys"),
    [
        ("Enter opens · Esc goes back", ["Enter", "Esc"]),
        ("Ctrl+R rename · Ctrl+Shift+Page Up top", ["Ctrl+R", "Ctrl+Shift+Page Up"]),
        ("Up, Down and Enter choose", ["Up", "Down", "Enter"]),
        ("F1 help · Shift+Enter new line", ["F1", "Shift+Enter"]),
        ("Entering Escapades, F 1, Uphill", []),
    ],
)
def test_keys_in_hints_stand_out(hint: str, keys: list[str]) -> None:
    content = with_keys(hint)
    assert content.plain == hint
    assert [hint[span.start : span.end] for span in content.spans] == keys
    assert {span.style for span in content.spans} <= {KEY_STYLE}


async def test_the_wheel_beside_the_conversation_scrolls_it(home: Path) -> None:
    async with chat(home, size=(160, 20)) as at:
        mouse, transcript = Mouse(at), at.transcript
        await at.turn("one", "\n\n".join(f"line {n}" for n in range(60)))
        end = transcript.scroll_y
        assert transcript.region.x > 10
        for x, y in ((2, 5), (155, 5), (80, 18)):  # beside it, and over the composer
            await mouse.wheel(x, y, events.MouseScrollUp)
            up = transcript.scroll_y
            assert up < end
            await mouse.wheel(x, y, events.MouseScrollDown)
            assert transcript.scroll_y == end
        # Over the conversation itself, it scrolls as far and not twice.
        await mouse.wheel(80, 5, events.MouseScrollUp)
        assert transcript.scroll_y == up


async def test_a_link_opens_at_a_click_and_a_double_click_selects_its_word(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat(home) as at:
        opened: list[str] = []
        monkeypatch.setattr(at.app, "open_url", opened.append)
        mouse = Mouse(at)
        await at.turn("one", "see [the proof](https://a.example/b) now")
        place = mouse.find("proof", 2)
        await mouse.click(*place, times=2)
        assert at.app.clipboard == "proof"
        await at.pilot.pause(AGAIN_SECONDS + 0.1)
        assert opened == []
        await mouse.click(1, 9)
        await mouse.click(*place)
        await mouse.click(1, 9)  # another place, soon after
        await at.until(lambda: opened)
        assert opened == ["https://a.example/b"]
