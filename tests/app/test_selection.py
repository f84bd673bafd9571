"""Text selected with the mouse, and what of it is copied."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qwen35_mlx.session.events import Answer, PrefillProgress
from tests.app.drive import Driver, chat
from tests.app.mouse import Mouse

PROSE = "**One** two *three* four five six seven eight nine ten eleven twelve."
LIST = "Before it:\n\n- a **first** point\n- a second one\n\nand after."
TABLE = "| name | what |\n|:--|--:|\n| a | the *first* |\n| b | the second |\n| c | the third |"
CODE = "See:\n\n```py\ndef run(total: int) -> int:\n\treturn total  # a comment, wrapped\n```"


@asynccontextmanager
async def shown(
    home: Path, answer: str, *, size: tuple[int, int] = (60, 30)
) -> AsyncGenerator[tuple[Driver, Mouse]]:
    """An app that shows a reply."""
    async with chat(home, size=size) as at:
        await at.turn("show me", answer)
        yield at, Mouse(at)


async def test_a_drag_over_three_words_copies_these(home: Path) -> None:
    async with shown(home, PROSE) as (at, mouse):
        await mouse.drag(*mouse.ends("two three four"))
        assert at.app.clipboard == "two three four"
        await at.until(lambda: "Copied" in at.text)


async def test_a_drag_up_selects_as_one_down(home: Path) -> None:
    async with shown(home, PROSE) as (at, mouse):
        await mouse.drag(mouse.find("four", 3), mouse.find("two"))
        assert at.app.clipboard == "two three four"


@pytest.mark.parametrize("width", [30, 60, 110])
async def test_a_paragraph_is_copied_without_the_breaks_of_the_screen(home: Path, width) -> None:
    async with shown(home, PROSE, size=(width, 30)) as (at, mouse):
        await mouse.drag(mouse.find("One"), mouse.find("twelve.", 6))
        assert at.app.clipboard == PROSE.replace("*", "")


async def test_several_paragraphs_are_copied_with_their_marks(home: Path) -> None:
    async with shown(home, LIST) as (at, mouse):
        await mouse.drag(mouse.find("it:"), mouse.find("and", 2))
        assert at.app.clipboard == LIST[7 : LIST.index(" after")]
        await mouse.drag(mouse.find("Before"), mouse.find("after.", 5))
        assert at.app.clipboard == LIST


async def test_code_is_copied_as_it_was_written(home: Path) -> None:
    async with shown(home, CODE, size=(40, 30)) as (at, mouse):
        await mouse.drag(mouse.find("def run"), mouse.find("wrapped", 6))
        assert at.app.clipboard == CODE.split("```py\n")[1].removesuffix("\n```")
        # From the line above it, with nothing of that.
        await mouse.drag(mouse.find("copy"), mouse.find("int:", 2))
        assert at.app.clipboard == "def run(total: int) -> int"


async def test_code_in_a_list_is_copied_without_the_indent_of_the_list(home: Path) -> None:
    text = "1. do\n\n   ```sh\n   for x in *; do\n     ls $x\n   done\n   ```"
    async with shown(home, text) as (at, mouse):
        await mouse.drag(mouse.find("for x"), mouse.find("done", 3))
        assert at.app.clipboard == "for x in *; do\n  ls $x\ndone"


@pytest.mark.parametrize("width", [24, 60])  # on the narrow screen each row is a record
async def test_a_table_is_copied_as_markdown(home: Path, width: int) -> None:
    async with shown(home, f"Above.\n\n{TABLE}", size=(width, 40)) as (at, mouse):
        await mouse.drag(mouse.find("the second", 2), mouse.find("third"))
        rows = TABLE.split("\n")
        assert at.app.clipboard == "\n".join([*rows[:2], *rows[3:]])
        await mouse.drag(*mouse.ends("the first"))
        assert at.app.clipboard == "the first"
        await mouse.drag(mouse.find("Above"), mouse.find("the second", 2))
        assert at.app.clipboard == "\n".join(["Above.", "", *rows[:4]])


async def test_a_formula_is_copied_as_it_was_written(home: Path) -> None:
    text = "So $a^2$ and\n\n$$\nx = \\frac{1}{y}\n$$\n\nis it."
    async with shown(home, text) as (at, mouse):
        await mouse.drag(mouse.find("So"), mouse.find("and", 2))
        assert at.app.clipboard == "So $a^2$ and"
        x, y = mouse.find("a²")
        await mouse.drag((x, y), (x + 1, y))
        assert at.app.clipboard == "$a^2$"
        x, y = mouse.find("x =")
        await mouse.drag((x, y), (x + 2, y))
        assert at.app.clipboard == "$$\nx = \\frac{1}{y}\n$$"
        await mouse.drag(mouse.find("and"), mouse.find("is it", 4))
        assert at.app.clipboard == text.removeprefix("So $a^2$ ").removesuffix(".")


async def test_a_task_is_copied_with_its_box(home: Path) -> None:
    async with shown(home, "- [x] done\n- [ ] to do") as (at, mouse):
        await mouse.drag(mouse.find("done"), mouse.find("to do", 4))
        assert at.app.clipboard == "- [x] done\n- [ ] to do"


async def test_a_selection_goes_across_messages(home: Path) -> None:
    async with shown(home, PROSE) as (at, mouse):
        await at.turn("and a question\nof two lines", LIST)
        await mouse.drag(mouse.find("twelve."), mouse.find("first"))
        question = "and a question\nof two lines"
        assert at.app.clipboard == f"twelve.\n\n{question}\n\nBefore it:\n\na f"


async def test_a_drag_across_what_has_no_text_ends_where_the_text_does(home: Path) -> None:
    async with shown(home, CODE) as (at, mouse):
        x, y = mouse.find("wrapped")
        await mouse.drag((x, y), (50, y + 3))
        assert at.app.clipboard == "wrapped"
        await mouse.drag((x, y), (50, y))
        assert at.app.clipboard == "wrapped"


@pytest.mark.parametrize(
    ("text", "at_character", "word"),
    [
        ("Some plain words.", "plain", "plain"),
        ("It doesn't well-formed end.", "doesn", "doesn't"),
        ("It doesn't well-formed end.", "formed", "well-formed"),
        ("See src/app/main.py, or", "app", "src/app/main.py"),
        ("See `~/.config/x.toml`.", "config", "~/.config/x.toml"),
        ("At https://example.org/a?b=c#d.", "example", "https://example.org/a?b=c#d"),
        ("我们在北京。喝茶。", "北", "北京"),
        ("用Python写代码", "写", "写"),
        ("モデルを使います", "使", "使い"),
        ("ผมชื่อสมชาย", "ส", "สมชาย"),
        ("用Python写代码", "yth", "Python"),
        ("naïve cafe\u0301 noir", "caf", "cafe\u0301"),
        ("so 👩‍🚀 flies", "👩", "👩‍🚀"),
        ("```py\nx = self.total_count / rate\n```", "total", "total_count"),
        ("```sh\ncat /etc/hosts | wc\n```", "etc", "/etc/hosts"),
        ("| a | bcd efg |\n|--|--|\n| h | i jkl |", "jk", "jkl"),
    ],
)
async def test_a_double_click_selects_a_word(
    home: Path, monkeypatch, text, at_character, word
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url, **_: opened.append(url))
    async with shown(home, text) as (at, mouse):
        await mouse.click(*mouse.find(at_character), times=2)
        assert at.app.clipboard == word
        assert not opened


async def test_a_double_click_that_is_dragged_selects_whole_words(home: Path) -> None:
    async with shown(home, PROSE) as (at, mouse):
        x, y = mouse.find("three", 2)
        await mouse.click(x, y)
        await mouse.drag((x, y), mouse.find("six", 1), again=True)
        assert at.app.clipboard == "three four five six"


async def test_a_triple_click_selects_the_line_however_it_is_wrapped(home: Path) -> None:
    async with shown(home, f"{PROSE}\nanother line", size=(40, 30)) as (at, mouse):
        await mouse.click(*mouse.find("nine"), times=3)
        assert at.app.clipboard == PROSE.replace("*", "")
        await mouse.click(*mouse.find("another"), times=3)
        assert at.app.clipboard == "another line"


@pytest.mark.parametrize(("first", "last"), [("界", "文"), ("文", "界")])
async def test_wide_characters_are_selected_by_their_cells(home: Path, first, last) -> None:
    async with shown(home, "a世界中文b 👍🏽 c") as (at, mouse):
        x, y = mouse.find(last)
        await mouse.drag(mouse.find(first), (x + 1, y))  # its second cell
        assert at.app.clipboard == "界中文"
        await mouse.drag(mouse.find("b"), mouse.find(" c", 0))
        assert at.app.clipboard == "b 👍🏽"


async def test_a_drag_beyond_the_bottom_scrolls_and_one_to_the_top_as_well(home: Path) -> None:
    text = "\n".join(f"line {n:02}" for n in range(60))
    async with shown(home, text, size=(40, 16)) as (at, mouse):
        view = at.transcript
        view.scroll_to(y=14, animate=False)
        await at.pilot.pause()
        x, y = mouse.find("line 15")
        await mouse.down(x, y)
        await mouse.move(x + 3, at.app.size.height - 1)
        await at.until(lambda: view.scroll_y > 30)
        await mouse.up(x + 3, at.app.size.height - 1)
        stopped = view.scroll_y
        copied = at.app.clipboard.split("\n")
        assert copied[:2] == ["line 15", "line 16"]
        assert len(copied) > 20
        assert copied[:-1] == [f"line {n:02}" for n in range(15, 14 + len(copied))]
        await at.pilot.pause(0.2)
        assert view.scroll_y == stopped
        await mouse.down(x, 5)
        await mouse.move(x, 0)
        await at.until(lambda: view.scroll_y < stopped - 3)
        await mouse.up(x, 0)
        assert at.app.clipboard.startswith(at.text.splitlines()[0].split()[0] + " ")


async def test_the_setting_leaves_the_clipboard_alone_until_ctrl_c(home: Path) -> None:
    (home / "settings.toml").write_text('copy_on_select = "off"\n')
    async with chat(home, settings=home / "settings.toml") as at:
        mouse = Mouse(at)
        await at.turn("show me", PROSE)
        await mouse.drag(*mouse.ends("two three"))
        assert at.app.clipboard == ""
        await at.press("ctrl+c")
        assert at.app.clipboard == "two three"
        assert at.app.is_running
        assert not at.transcript.selecting.selection


async def test_ctrl_c_with_a_selection_copies_and_does_not_stop_the_reply(home: Path) -> None:
    async with chat(home) as at:
        mouse = Mouse(at)
        await at.send("one")
        await at.shown([PrefillProgress(0, 100, 0), Answer("Some words of it")])
        await mouse.drag(*mouse.ends("words of"))
        at.app.copy_to_clipboard("")
        await at.press("ctrl+c")
        assert at.app.clipboard == "words of"
        assert at.controller.busy
        assert not at.controller.stopping


async def test_esc_clears_the_selection_before_it_stops_the_reply(home: Path) -> None:
    async with chat(home) as at:
        mouse = Mouse(at)
        await at.send("one")
        await at.shown([PrefillProgress(0, 100, 0), Answer("Some words of it")])
        await mouse.drag(*mouse.ends("words of"))
        await at.press("escape")
        assert not at.transcript.selecting.selection
        assert not at.controller.stopping
        await at.press("escape")
        assert at.controller.stopping or not at.controller.busy


async def test_a_click_that_clears_the_selection_acts(home: Path) -> None:
    async with shown(home, f"{PROSE}\n\n```python\nx = 1\n```") as (at, mouse):
        await mouse.drag(*mouse.ends("two three"))
        await mouse.click(*mouse.find("copy"))
        assert not at.transcript.selecting.selection
        assert at.app.clipboard == "x = 1\n"
        await mouse.drag(*mouse.ends("two three"))
        await mouse.click(*mouse.find("six"))
        assert not at.transcript.selecting.selection
        assert at.transcript.marked is at.messages[-1]
        await mouse.drag(*mouse.ends("two three"))
        assert at.transcript.marked is None


async def test_a_selection_stays_while_the_reply_grows(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        mouse = Mouse(at)
        await at.send("one")
        await at.shown([PrefillProgress(0, 100, 0), Answer("The **first** words.\n\n```c\nint x")])
        await mouse.drag(mouse.find("first"), mouse.find("int"))
        assert at.app.clipboard == "first words.\n\n```c\ni"
        await at.shown([Answer(" = 1;\n```\n\n" + "more words\n\n" * 300)])
        await at.press("ctrl+c")
        assert at.app.clipboard == "first words.\n\n```c\ni"


async def test_the_view_stands_still_while_the_button_is_down(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        mouse = Mouse(at)
        await at.send("one")
        await at.shown([PrefillProgress(0, 100, 0), Answer("line\n" * 30 + "the mark\n")])
        x, y = mouse.find("the mark")
        await mouse.down(x, y)
        await at.shown([Answer("more\n" * 30)])
        assert mouse.find("the mark") == (x, y)
        await mouse.move(x + 7, y)
        await mouse.up(x + 7, y)
        assert at.app.clipboard == "the mark"
        assert at.transcript.scroll_y == at.transcript.max_scroll_y  # as it was before


async def test_a_selection_stays_at_another_width_and_when_thinking_is_unfolded(home) -> None:
    async with chat(home, size=(80, 30)) as at:
        mouse = Mouse(at)
        await at.turn("one", PROSE, thinking="let me see\n\n" * 5)
        await mouse.drag(mouse.find("two"), mouse.find("eleven", 5))
        expected = "two three four five six seven eight nine ten eleven"
        assert at.app.clipboard == expected
        for change in (at.pilot.resize_terminal(34, 30), at.press("ctrl+o")):
            await change
            at.app.copy_to_clipboard("")
            assert at.transcript.selecting.text == expected
            selection = at.transcript.selecting.selection
            drawn = [at.transcript.rows.line(y) for y in range(at.transcript.rows.height)]
            spans = [
                line.content.plain[slice(*span)]
                for entry, line in filter(None, drawn)
                if (span := selection.within(entry.key, line))
            ]
            assert " ".join("".join(spans).split()) == expected


async def test_text_on_a_page_is_copied_as_well(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        mouse = Mouse(at)
        await at.press("f1")
        x, y = mouse.find("begin a new line")
        await mouse.drag((x, y), (x + len("begin a new line") - 1, y))
        assert at.app.clipboard == "begin a new line"


async def test_a_message_of_the_app_can_be_selected(home: Path) -> None:
    async with chat(home, size=(60, 30)) as at:
        mouse = Mouse(at)
        await at.send("/view wide")
        await at.until(lambda: "is not one of" in at.text)
        y = next(n for n, line in enumerate(at.text.splitlines()) if "is not one of" in line)
        x = at.text.splitlines()[y].index("is not one of")
        await mouse.drag((x, y), (x + len("is not one of") - 1, y))
        assert at.app.clipboard == "is not one of"
        at.app.copy_to_clipboard("")
        await at.press("ctrl+c")
        assert at.app.clipboard == "is not one of"
        assert at.app.is_running


async def test_what_is_dropped_is_not_selected_any_more(home: Path) -> None:
    async with shown(home, PROSE) as (at, mouse):
        await mouse.drag(*mouse.ends("two three"))
        await at.press("ctrl+n")
        assert not at.transcript.selecting.selection
        await at.press("ctrl+c")
        assert not at.app.is_running or at.app._exit


async def test_escape_sequences_of_a_model_do_not_reach_the_clipboard(home: Path) -> None:
    async with shown(home, "a\x1b[2Jb words") as (at, mouse):
        await at.turn("more", "so")
        await mouse.drag(mouse.find("show"), mouse.find("so", 1))
        assert "words" in at.app.clipboard
        assert "\x1b" not in at.app.clipboard
