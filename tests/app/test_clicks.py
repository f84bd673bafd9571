"""A click acts on what is under it, the view stays, and what is typed goes where it is seen."""

from pathlib import Path

import pytest
from qwen35_chat.drawing.entries import ReplyEntry, UserEntry
from qwen35_chat.terminal_driver import TextBegins
from textual.events import Key
from textual.keys import _character_to_key

from qwen35_mlx.session.events import Answer, PrefillProgress
from tests.app.drive import Driver, chat
from tests.app.mouse import Mouse

CODE = "```python\nx = 1\n```"
LINES = "\n".join(f"line {n:02}" for n in range(60))


async def scrolled_up(at: Driver) -> float:
    """A view in the middle of a conversation, and where that is."""
    at.transcript.scroll_to(y=20, animate=False)
    await at.pilot.pause()
    return at.transcript.scroll_y


@pytest.mark.parametrize("where", ["text", "beside", "below"])
async def test_what_is_typed_after_a_click_is_typed(home: Path, where: str) -> None:
    async with chat(home) as at:
        mouse = Mouse(at)
        await at.turn("one", "the answer")
        x, y = mouse.find("the answer")
        await mouse.click(*{"text": (x, y), "beside": (70, y), "below": (x, y + 4)}[where])
        await at.press(*"really?")
        assert at.typed == "really?"
        assert at.sent == ["one"]
        assert at.transcript.marked is None


async def test_a_click_marks_the_message_under_it_and_the_view_stays(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        mouse = Mouse(at)
        await at.turn("one", LINES)
        await at.turn("two", "the end")
        y = await scrolled_up(at)
        before = at.text.splitlines()[:8]
        await mouse.click(*mouse.find("line 25"))
        assert at.transcript.marked is at.messages[1]
        assert at.transcript.scroll_y == y
        assert [line.lstrip("█ ") for line in at.text.splitlines()[:8]] == [
            line.lstrip() for line in before
        ]
        assert "retry" in at.text
        await at.press("f3")
        assert at.app.clipboard == LINES
        # Another click takes the mark away.
        await mouse.click(*mouse.find("line 25"))
        assert at.transcript.marked is None
        assert at.transcript.scroll_y == y
        assert "retry" not in at.text


async def test_a_click_acts_while_a_reply_streams_and_the_view_is_scrolled_up(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        mouse = Mouse(at)
        await at.turn("one", f"{CODE}\n\n{LINES}")
        await at.send("two")
        await at.shown([PrefillProgress(0, 100, 0), Answer("so\n\n" * 9)])
        at.transcript.scroll_to(y=1, animate=False)
        await at.pilot.pause()
        y = at.transcript.scroll_y
        await mouse.down(*mouse.find("copy"))
        await at.shown([Answer("more\n\n" * 40)])
        await mouse.up(*mouse.find("copy"))
        assert at.app.clipboard == "x = 1\n"
        assert at.transcript.scroll_y == y
        await at.shown([Answer("more\n\n" * 40)])
        assert at.transcript.scroll_y == y


async def test_each_copy_button_copies_its_own_code(home: Path) -> None:
    async with chat(home, size=(60, 40)) as at:
        mouse = Mouse(at)
        await at.turn("one", "".join(f"```sh\necho {n}\n```\n\nso\n\n" for n in range(3)))
        for n in range(3):
            _, y = mouse.find(f"echo {n}")
            await mouse.click(mouse.find("copy")[0], y - 1)
            assert at.app.clipboard == f"echo {n}\n"


async def test_a_fold_opens_where_it_is_clicked(home: Path) -> None:
    async with chat(home, size=(60, 16)) as at:
        mouse = Mouse(at)
        await at.turn("one", "the answer", thinking="let me see\n\n" * 30)
        x, y = mouse.find("▸ Thought")
        await mouse.click(x + 3, y)
        assert mouse.find("▾ Thought") == (x, y)
        assert "let me see" in at.text
        assert at.transcript.marked is None
        await mouse.click(x + 3, y)
        assert mouse.find("▸ Thought") == (x, y)
        # The end is in view again, and so it is followed.
        await at.turn("two", LINES)
        assert at.transcript.scroll_y == at.transcript.max_scroll_y


async def test_a_drag_over_a_button_does_not_press_it(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        mouse = Mouse(at)
        await at.turn("one", f"above\n\n{CODE}")
        await mouse.drag(mouse.find("above"), mouse.find("copy", 2))
        assert at.app.clipboard == "above"


async def test_a_marked_message_shows_its_keys_and_they_act(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", f"so\n\n{CODE}", thinking="hm")
        await at.press("tab")
        assert (
            "c copy   y copy code   e edit   r retry   b branch   Space unfold   Esc back"
            in at.text
        )
        await at.press("up")
        assert "c copy   e edit   Esc back" in at.text
        await at.press("c")
        assert at.app.clipboard == "one"
        await at.press("escape")
        assert "Esc back" not in at.text
        await at.press(*"rey")
        assert at.typed == "rey"


async def test_a_letter_without_a_command_ends_the_commands_of_those_after_it(home: Path) -> None:
    text = "What is the name of my dog, big one"
    async with chat(home) as at:
        await at.turn("one", f"so\n\n{CODE}")
        messages = at.messages
        await at.press("tab")
        assert at.app.chat.focused is at.transcript
        for character in text:  # faster than what they do
            at.app.post_message(Key(_character_to_key(character), character))
        await at.settled()
        assert at.typed == text
        assert at.messages == messages
        assert at.transcript.marked is None


async def test_text_that_begins_ends_the_commands(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "so")
        await at.press("tab")
        at.app.post_message(TextBegins())
        for character in "retry":
            at.app.post_message(Key(character, character))
        await at.settled()
        assert at.typed == "retry"
        assert at.sent == ["one"]


async def test_remapped_keys_are_shown(home: Path) -> None:
    (home / "settings.toml").write_text('[keys]\nmark_copy = "w"\nmark_edit = "F6"\n')
    async with chat(home, settings=home / "settings.toml") as at:
        await at.turn("one", "so")
        await at.press("tab", "up")
        assert "w copy   F6 edit" in at.text
        await at.press("w")
        assert at.app.clipboard == "one"
        await at.press("c")
        assert at.typed == "c"


@pytest.mark.parametrize("width", [30, 50])
async def test_the_keys_fit_a_narrow_screen(home: Path, width: int) -> None:
    async with chat(home, size=(width, 20)) as at:
        await at.turn("one", f"so\n\n{CODE}", thinking="hm")
        await at.press("tab")
        line = next(line for line in at.text.splitlines() if "c copy" in line)
        assert line.rstrip().endswith(("code", "retry", "branch"))


async def test_keys_are_typed_while_the_marked_message_is_out_of_view(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        await at.turn("one", LINES)
        await at.turn("two", "the end")
        await at.press("tab", "pageup", "pageup", "pageup")
        await at.press(*"rb")
        assert at.typed == "rb"
        assert at.sent == ["one", "two"]


async def test_tab_marks_a_message_in_view_and_the_view_stays(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        await at.turn("one", LINES)
        await at.turn("two", "the end")
        y = await scrolled_up(at)
        await at.press("tab")
        assert at.transcript.marked is at.messages[1]
        assert at.transcript.scroll_y == y
        assert "r retry" in at.text


async def test_a_word_below_a_clicked_message_is_a_button(home: Path) -> None:
    async with chat(home) as at:
        mouse = Mouse(at)
        await at.turn("one", "so")
        await at.turn("two", "and so")
        await mouse.click(*mouse.find("one"))
        await mouse.click(*mouse.find("edit"))
        await at.until(lambda: at.typed == "one")
        await at.press(*"rb", "enter")
        assert at.typed == ""
        await mouse.click(*mouse.find("one"))


async def test_a_click_beside_the_messages_goes_back_to_the_composer(home: Path) -> None:
    async with chat(home) as at:
        mouse = Mouse(at)
        await at.turn("one", "so")
        await at.press("tab")
        await mouse.click(40, mouse.find("so")[1] + 3)
        await at.press("r")
        assert at.typed == "r"


async def test_a_mark_does_not_move_when_the_text_above_is_folded(home: Path) -> None:
    async with chat(home, size=(60, 20)) as at:
        reply = ReplyEntry(thinking="hm\n\n" * 40, answer=LINES, view="open")
        at.transcript.show([UserEntry("one"), reply])
        at.app.chat.show_first()
        await at.pilot.pause()
        at.transcript.scroll_to(y=110, animate=False)
        await at.pilot.pause()
        top = at.text.splitlines()[0]
        assert "line" in top
        at.transcript.toggle(reply)
        await at.pilot.pause()
        assert at.text.splitlines()[0].split()[:2] == top.split()[:2]
