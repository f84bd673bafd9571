"""Lines for the user: beside the progress, as long as what they are about, with the right keys."""

from pathlib import Path

import pytest
from qwen35_chat.time_left import TimeLeft

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Failed,
    Loaded,
    Notice,
    PrefillProgress,
    Thinking,
)
from tests.app.drive import Clock, chat, reply
from tests.app.plain_drive import FIGURES, PlainChat

REMAPPED = """[keys]
stop = "ctrl+y"
new = "f6"
undo = "f7"
models = "f10"
session_undo = ""
retry = "f12"
"""


async def test_a_message_stands_beside_the_progress(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([PrefillProgress(512, 2_048, 0)])
        await at.press("ctrl+n")
        assert "a reply is being written: Esc stops it" in at.text
        assert "512 of 2,048 tokens" in at.text
        assert "Esc stops" in at.text.splitlines()[-5]
        await at.press("escape")
        assert "Stopping" in at.text


@pytest.mark.parametrize("end", [reply("so"), [Cancelled()], [Failed("no")]])
async def test_an_error_about_a_reply_ends_with_it(home: Path, end) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("so")])
        await at.press("ctrl+n")
        assert "a reply is being written" in at.text
        await at.shown(end)
        assert "a reply is being written" not in at.text


@pytest.mark.parametrize("text", ["/nothing of it", "see @nothing.txt"])
async def test_an_error_about_what_is_typed_ends_when_that_changes(home: Path, text: str) -> None:
    async with chat(home) as at:
        await at.send(text)
        await at.until(lambda: "there is no" in at.text)
        assert at.typed == text
        assert at.sent == []
        await at.press("backspace")
        assert "there is no" not in at.text


async def test_an_error_of_another_kind_stays_while_a_text_is_typed(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/view nothing")
        await at.until(lambda: "is not one of" in at.text)
        await at.press(*"abc")
        assert "is not one of" in at.text
        at.clock.now += 10
        await at.shown()
        assert "is not one of" not in at.text


async def test_the_line_about_a_model_that_did_not_load_ends_with_another(home: Path) -> None:
    async with chat(home, loads=False) as at:
        await at.shown([Failed("no such model.")])
        assert "could not be loaded. no such model. Ctrl+L chooses another." in at.text
        await at.shown([Loaded("demo", 4_096)])
        assert "could not be loaded" not in at.text


async def test_lines_name_keys_as_they_are_mapped(home: Path) -> None:
    file = home / "settings.toml"
    file.write_text(REMAPPED)
    async with chat(home, settings=file) as at:
        await at.turn("one")
        await at.press("f4")
        assert "Ctrl+Y leaves" in at.text
        await at.press("ctrl+y")
        await at.send("two")
        assert "Ctrl+Y stops" in at.text
        await at.press("f6")
        assert "a reply is being written: Ctrl+Y stops it" in at.text
        await at.press("ctrl+y")
        assert at.controller.stopping
        await at.shown([Cancelled()])
        assert at.typed == "two"
        await at.send("/delete")
        await at.until(lambda: "Deleted one; F7 brings it back" in at.text)
        await at.press("f7")
        await at.shown()
        await at.press("ctrl+s", "ctrl+d")
        assert "Deleted one; Bring back brings it back" in at.text


async def test_a_conversation_of_another_window_names_the_mapped_key(home: Path) -> None:
    file = home / "settings.toml"
    async with chat(home) as one:
        await one.turn("one")
        file.write_text(REMAPPED)
        async with chat(home, settings=file, conversation=1) as other:
            await other.send("two")
            assert "open in another window: F6 begins a new one" in other.text


def test_plain_mode_names_commands_and_no_keys(session: PlainChat) -> None:
    session.run("q", reply("so"))
    session.controller.read_only = True
    with pytest.raises(Qwen35Error, match="another window: /new begins a new one"):
        session.controller.send("two")
    assert session.controller.key("stop") == "Ctrl+C"


# How long it takes


def test_the_time_left_does_not_climb_between_two_reports() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.report(100, 1_100)
    assert left.seconds is None
    seen: list[float] = []
    for step in range(1, 6):
        clock.now = step * 2.0
        left.report(100 + step * 200, 1_100)
        for part in range(4):
            clock.now = step * 2.0 + part * 0.5
            seen.append(left.seconds or 0.0)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == pytest.approx(8.0)


def test_a_step_that_takes_too_long_shows_no_time() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.report(0, 100)
    clock.now = 1.0
    left.report(50, 100)
    clock.now = 3.0
    assert left.seconds is None


async def test_the_time_left_of_a_prompt_goes_down_within_a_step(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([PrefillProgress(0, 1_000, 0)])
        at.clock.now = 10.0
        await at.shown([PrefillProgress(500, 1_000, 0)])
        assert "10 s to go" in at.text
        at.clock.now = 13.0
        await at.shown()
        assert "7 s to go" in at.text


# Plain mode


def test_a_notice_within_an_answer_has_its_own_line(session: PlainChat) -> None:
    events = [
        Thinking("hm"),
        Answer("One, "),
        Notice("a state was rebuilt"),
        Answer("two"),
        reply()[-1],
    ]
    written = session.run("q", events)
    assert "Answer: One, \na state was rebuilt\nAnswer: two\n" in written
    assert session.plain.view.answer == "One, two"


def test_another_version_is_written_from_its_message_on(session: PlainChat) -> None:
    written = session.run(
        "first", reply("one"), "second", reply("two"), "/retry", reply("three"), "/older"
    )
    assert written.endswith(f"Answer: three\n{FIGURES}Answer (version 1 of 2): two\n")


def test_a_changed_setting_is_named_with_its_value(session: PlainChat) -> None:
    long = "word " * 40
    written = session.run(
        "/settings max_tokens 100",
        "/settings mtp off",
        f"/settings system {long}",
        "/settings keys.send ctrl+y",
    )
    assert "max_tokens is 100, from now on\n" in written
    assert "mtp is off, from the next start on\n" in written
    assert "word…, from now on\n" in written
    assert "keys.send is ctrl+y, from now on\n" in written
