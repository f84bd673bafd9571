"""Copying, and what reaches the terminal: escape sequences, colours, motion."""

import base64
import re
import stat
from pathlib import Path

import pytest
from qwen35_chat import clipboard
from qwen35_chat.clipboard import LONGEST_OSC52, copy, osc52, programs
from textual import constants
from textual.widgets import Input

from qwen35_mlx.session.events import Answer, Failed, Loading, Notice
from tests.app.drive import Driver, chat, reply

WAYLAND = {"WAYLAND_DISPLAY": "wayland-0", "DISPLAY": ":0"}
X11 = {"DISPLAY": ":0"}
SSH = {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22", **WAYLAND}
HOSTILE = "a\x1b[2J\x1b]0;t\x07\x9bH\rb"
SHOWN = "a␛[2J␛]0;t␇\\x9bH␍b"


@pytest.mark.parametrize(
    ("environment", "platform", "names"),
    [
        ({}, "darwin", ["pbcopy"]),
        (WAYLAND, "linux", ["wl-copy", "xclip", "xsel"]),
        (X11, "linux", ["xclip", "xsel"]),
        ({}, "linux", []),
        (SSH, "linux", []),
        ({"SSH_TTY": "/dev/pts/0"}, "darwin", []),
    ],
)
def test_clipboard_programs_are_local_only(environment, platform, names) -> None:
    assert [command[0] for command in programs(environment, platform)] == names


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(clipboard.sys, "platform", "linux")
    monkeypatch.setattr(clipboard, "programs", lambda e: programs(e, "linux"))
    return folder


def program(folder: Path, name: str, code: int = 0) -> Path:
    """Make a program that writes its input to a file; that file."""
    kept = folder / f"{name}.txt"
    file = folder / name
    file.write_text(f"#!/bin/sh\n/bin/cat > '{kept}'\nexit {code}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return kept


def test_no_program_of_the_current_folder_is_run(path: Path, monkeypatch) -> None:
    kept = program(path, "xclip")
    monkeypatch.chdir(path)
    monkeypatch.setenv("PATH", ".")
    copy("secret", lambda _: None, X11)
    assert not kept.exists()


def test_a_program_is_used_first_and_gets_the_text_as_it_is(path: Path) -> None:
    kept = program(path, "wl-copy")
    written: list[str] = []
    assert copy("größe\n\x1b[1m", written.append, WAYLAND) == "Copied"
    assert kept.read_text() == "größe\n\x1b[1m"
    assert written == []


def test_after_a_program_that_fails_the_next_is_used(path: Path) -> None:
    program(path, "wl-copy", code=1)
    kept = program(path, "xclip")
    assert copy("text", lambda _: None, WAYLAND) == "Copied"
    assert kept.read_text() == "text"


def test_over_ssh_the_terminal_copies_even_if_there_is_a_program(path: Path) -> None:
    kept = program(path, "wl-copy")
    written: list[str] = []
    assert copy("text é", written.append, SSH) == "Copied, if this terminal allows it"
    assert written == [f"\x1b]52;c;{base64.b64encode('text é'.encode()).decode()}\a"]
    assert not kept.exists()


def test_without_a_program_the_message_names_one_to_install(path: Path) -> None:
    said = copy("text", lambda _: None, WAYLAND)
    assert said == "Copied, if this terminal allows it; install wl-copy to be sure"
    said = copy("text", lambda _: None, X11)
    assert said == "Copied, if this terminal allows it; install xclip to be sure"


def test_text_too_long_for_a_terminal_is_not_sent_to_it(path: Path) -> None:
    written: list[str] = []
    said = copy("x" * (LONGEST_OSC52 + 1), written.append, {})
    assert said == "Not copied: it is too long for the terminal; export the conversation instead"
    assert written == []


def test_a_lone_surrogate_can_be_copied(path: Path) -> None:
    kept = program(path, "xclip")
    assert copy("a\ud83db", lambda _: None, X11) == "Copied"
    assert kept.read_text() == "a?b"
    assert osc52("a")


async def test_the_screen_shows_how_the_text_was_copied(home: Path, monkeypatch) -> None:
    monkeypatch.setattr(clipboard, "copy", lambda text, write: f"Copied {text!r}")
    async with chat(home) as at:
        await at.turn("one", "so")
        await at.press("f3")
        await at.until(lambda: "Copied 'so'" in at.text)


# Text is text


async def test_no_text_is_obeyed_by_the_terminal(home: Path) -> None:
    Path(f"x{HOSTILE.replace('/', '')}.txt").write_text("text")
    markup = "[red]no[/red] [@click=app.quit]x[/]"
    async with chat(home, size=(120, 40)) as at:
        await at.send("/view open")
        at.app.chat.show(at.controller.send(f"{HOSTILE} {markup}"))
        await at.shown([Notice(HOSTILE), *reply(f"{HOSTILE} {markup}", thinking=HOSTILE)])
        at.library.rename(1, f"{HOSTILE} {markup}")
        screens = [at.text]
        await at.press("ctrl+s")
        screens.append(at.text)
        await at.press(*"red")
        screens.append(at.text)
        at.controller.history.add(HOSTILE)
        await at.press("escape", "ctrl+r")
        screens.append(at.text)
        await at.press("escape", "f4")  # the message, to be written anew
        screens.append(at.text)
        await at.press("escape", "@")
        await at.until(lambda: "␛" in at.text.rsplit("@", 1)[0])
        screens.append(at.text)
        at.composer.set_text("")
        await at.send("two")
        await at.shown([Answer("so"), Failed(f"{HOSTILE} {markup}")])
        screens.append(at.text)
        at.app.chat.show_message(f"{HOSTILE} {markup}")
        await at.shown([Loading(f"org/{HOSTILE}")])
        screens.append(at.text)
        for shown in screens:
            assert "a␛[2J" in shown
            assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown)
        assert screens[0].count(SHOWN) >= 3  # asked, thought, answered
        assert screens[0].count(markup) == 2
        assert all(markup in shown for shown in screens[6:])


async def test_a_hostile_title_is_shown_where_it_is_edited(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.turn("one")
        at.library.rename(1, f"{HOSTILE} [b]x[/b]")
        await at.press("ctrl+s", "ctrl+r")
        assert "\x1b" not in at.text
        assert "[b]x[/b]" in at.text


# Colours and motion


def colours(at: Driver) -> set[str]:
    """The colours of the screen, without those of the frame around its picture."""
    svg = at.app.export_screenshot()
    styles = re.findall(r"-r\d+ \{ fill: (#\w{6})", svg)
    found = {*styles, *re.findall(r'<rect fill="(#\w{6})"', svg)}
    return found - {"#c5c8c6"}  # the frame's own


async def test_ansi_takes_the_colours_of_the_terminal(home: Path) -> None:
    (home / "settings.toml").write_text('theme = "ansi"\n')
    async with chat(home, settings=home / "settings.toml") as at:
        await at.turn("one", "```python\nx = 1\n```", thinking="hm")
        assert at.app.native_ansi_color
        strips = at.app.screen._compositor.render_strips()
        used = [s.style for strip in strips for s in strip if s.style]
        for style in used:
            for colour in (style.color, style.bgcolor):
                assert colour is None or colour.triplet is None, style


async def test_no_color_leaves_shades_of_grey(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with chat(home) as at:
        await at.turn("one", "```python\nx = 1\n```", thinking="hm")
        await at.send("two")
        await at.shown([Answer("so"), Failed("out of memory")])
        assert "Error: out of memory" in at.text  # without the colour it needs the word
        found = colours(at)
        assert len(found) > 2
        assert all(c[1:3] == c[3:5] == c[5:7] for c in found)
        await at.press("tab")
        assert "▌" in at.text


@pytest.mark.parametrize("level", ["full", "none"])
async def test_nothing_moves_by_itself(home: Path, monkeypatch, level: str) -> None:
    monkeypatch.setattr(constants, "TEXTUAL_ANIMATIONS", level)
    async with chat(home) as at:
        assert at.app.animation_level == level
        await at.send("one")
        await at.shown([Answer("line\n" * 60)])
        before = at.app.export_screenshot()
        await at.pilot.pause(0.6)
        assert at.app.export_screenshot() == before
        await at.press("ctrl+s")
        assert not at.app.screen.query_one(Input).cursor_blink
        before = at.app.export_screenshot()
        await at.pilot.pause(0.6)
        assert at.app.export_screenshot() == before


async def test_a_system_prompt_of_several_lines_stays_so(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/system one\ntwo")
        await at.until(lambda: at.controller.settings.system == "one\ntwo")
        await at.send("/system")
        await at.until(lambda: r"one\ntwo" in at.text)
        await at.press("end", "!", "enter")
        assert at.controller.settings.system == "one\ntwo!"
