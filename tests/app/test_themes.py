"""Themes: readable, tried before they are chosen, and as the terminal's background is."""

import os
import sys
from pathlib import Path

import pytest
from qwen35_chat.background import answered_colour, is_light
from qwen35_chat.settings import THEMES
from qwen35_chat.terminal_driver import BackgroundAnswered
from qwen35_chat.terminal_input import Sequence, TerminalInput, Typed
from qwen35_chat.themes import theme_name
from qwen35_chat.widgets.status import Activity, Status
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from scripts.support.terminal import Terminal
from tests.app import real_terminal
from tests.app.drive import Driver, chat

COLOURED = [name for name in THEMES if name not in ("auto", "ansi")]
LIGHT_BACKGROUND = b"48;2;251;250;253"
NORD = b"48;2;46;52;64"
ANSWER = "\x1b]11;rgb:fdfd/f6f6/e3e3\x1b\\"


def luminance(colour: Color) -> float:
    def linear(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(value / 255) for value in colour.rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def faint(at: Driver, least: float) -> dict[str, float]:
    """The styles of texts whose contrast is less than `least`, and their contrast."""
    transcript = at.transcript
    styles = {name: transcript.get_visual_style(name) for name in transcript.COMPONENT_CLASSES}
    for widget in (at.composer, at.app.chat.query_one(Status), at.app.chat.query_one(Activity)):
        styles[type(widget).__name__] = widget.visual_style
    found: dict[str, float] = {}
    for name, style in styles.items():
        assert style.foreground is not None
        assert style.background is not None
        needed = 2.5 if name.endswith("bar") else least  # a bar is no text
        if (value := contrast(style.foreground, style.background)) < needed:
            found[name] = value
    return found


@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_every_text_of_the_own_themes_has_enough_contrast(home: Path, theme: str) -> None:
    (home / "settings.toml").write_text(f'theme = "{theme}"\n')
    async with chat(home, settings=home / "settings.toml") as at:
        assert at.app.theme == theme_name(theme, light=False)
        assert at.app.current_theme.dark == (theme == "dark")
        assert faint(at, 4.5) == {}


async def test_every_theme_is_readable(home: Path) -> None:
    async with chat(home) as at:
        for theme in COLOURED:
            at.app.use_theme(theme)
            await at.pilot.pause()
            assert faint(at, 3.0) == {}, theme


def test_all_of_textuals_themes_can_be_chosen() -> None:
    assert {*THEMES} - {"auto", "dark", "light", "ansi"} == {
        name for name in BUILTIN_THEMES if not name.startswith("ansi")
    }


async def test_a_theme_is_used_by_its_name_and_at_once(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml") as at:
        await at.turn("one", "so")
        for theme in ("light", "nord", "ansi", "auto"):
            await at.send(f"/theme {theme}")
            name = theme_name(theme, light=False)
            await at.until(lambda name=name: at.app.theme == name)
            assert f"Theme {theme}" in at.text
        await at.send("/theme gruvbx")
        await at.until(lambda: "there is no theme 'gruvbx': did you mean gruvbox?" in at.text)
        await at.send("/theme blue")
        await at.until(lambda: "there is no theme 'blue': /theme lists them" in at.text)


async def test_the_marked_theme_is_shown_and_escape_restores_the_one_before(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml", size=(100, 30)) as at:
        await at.send("/theme")
        assert at.app.theme == "qwen-dark"
        await at.press(*"nord")
        assert at.app.theme == "nord"
        await at.press("escape")
        assert at.app.theme == "qwen-dark"
        assert at.controller.settings.theme == "auto"


async def test_enter_keeps_the_marked_theme(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml", size=(100, 30)) as at:
        await at.send("/theme")
        await at.press("down", "down", "enter")
        assert at.app.theme == "qwen-light"
        assert 'theme = "light"' in (home / "settings.toml").read_text()
        await at.press("f2", *"theme", "enter")
        await at.press("down", "down", "enter")
        assert at.controller.settings.theme == "atom-one-dark"
        assert at.app.theme == "atom-one-dark"


async def test_auto_and_ansi_follow_the_background_and_a_chosen_theme_does_not(home: Path) -> None:
    async with chat(home) as at:
        for theme, light, dark in (
            ("auto", "qwen-light", "qwen-dark"),
            ("ansi", "ansi-light", "ansi-dark"),
            ("nord", "nord", "nord"),
        ):
            await at.send(f"/theme {theme}")
            await at.settled()
            for colour, name in (("#fff", light), ("rgb:00/00/00", dark), ("no colour", dark)):
                at.app.post_message(BackgroundAnswered(colour))
                await at.pilot.pause()
                assert at.app.theme == name


@pytest.mark.parametrize(
    ("colour", "light"),
    [
        ("rgb:ffff/ffff/ffff", True),
        ("rgb:1e/1e/2e", False),
        ("rgba:fdfd/f6f6/e3e3/ffff", True),
        ("rgb:f/f/f", True),
        ("#002b36", False),
        ("#FFF", True),
        ("rgb:0000/0000/ffff", False),
        ("rgb:0000/ffff/0000", True),
        ("?", None),
        ("rgb:ffff/ffff", None),
        ("", None),
    ],
)
def test_a_background_is_light_dark_or_no_colour(colour: str, light: bool | None) -> None:
    assert is_light(colour) is light


@pytest.mark.parametrize("end", ["\x1b\\", "\x07"])
def test_an_answer_cut_in_two_anywhere_leaves_only_what_is_typed(end: str) -> None:
    answer = ANSWER.replace("\x1b\\", end).encode()
    for cut in range(len(answer) + 1):
        terminal = TerminalInput()
        tokens = terminal.feed(b"ab" + answer[:cut]) + terminal.feed(answer[cut:] + b"cd")
        assert tokens == [Typed("ab"), Sequence(answer.decode()), Typed("cd")], cut
    assert answered_colour(answer.decode()) == "rgb:fdfd/f6f6/e3e3"


@pytest.mark.parametrize(
    "other", ["\x1b]10;rgb:0000/0000/0000\x07", "\x1b]11;" + "x" * 200, "\x1b"]
)
def test_another_report_of_the_terminal_is_no_colour(other: str) -> None:
    assert answered_colour(other) == ""


@pytest.mark.parametrize("late", [False, True])
def test_the_answer_of_a_terminal_sets_the_theme_and_is_not_typed(home: Path, late: bool) -> None:
    seen = bytearray()
    command = Path(sys.executable).with_name("qwen35-chat")
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "QWEN35_HOME": str(home), "HOME": str(home), "COLORTERM": "truecolor"}
    with Terminal(
        [str(command), "--fake"], environment=environment, size=(80, 24), on_output=seen.extend
    ) as terminal:
        terminal.until(lambda: b"\x1b]11;?\x07" in seen)
        if late:
            terminal.until(lambda: "F1 help" in terminal.text)
            assert LIGHT_BACKGROUND not in seen
            terminal.write(f"{ANSWER[:7]}")
            terminal.pump(0.3)
            terminal.write(f"{ANSWER[7:]}typed")
            terminal.until(lambda: "typed" in terminal.text)
        else:
            terminal.write(ANSWER)
            terminal.until(lambda: "F1 help" in terminal.text)
        terminal.until(lambda: LIGHT_BACKGROUND in seen)
        assert "rgb" not in terminal.text
        assert "11;" not in terminal.text
        terminal.write("\x03\x11")
        terminal.until(lambda: 1049 not in terminal.screen.modes)


def test_a_theme_is_used_by_its_name_in_a_terminal(home: Path) -> None:
    seen = bytearray()
    colours = {"COLORTERM": "truecolor"}
    with real_terminal.chat(home, "--fake", on_output=seen.extend, variables=colours) as terminal:
        terminal.until(lambda: real_terminal.LOADED in terminal.text)
        for name, background in (("solarized-light", b"48;2;253;246;227"), ("nord", NORD)):
            del seen[:]
            terminal.write(f"/theme {name}\r")
            terminal.until(lambda name=name: f"Theme {name}" in terminal.text)
            terminal.until(lambda background=background: background in seen)
            assert f"/theme {name}" not in terminal.text, "it is left in the composer"
        terminal.write("/theme nrod\r")
        terminal.until(lambda: "did you mean nord?" in terminal.text)
        terminal.write("\x03" + real_terminal.QUIT)
        assert terminal.wait() == 0
