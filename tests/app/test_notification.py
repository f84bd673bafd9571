"""The notification about a long reply: when there is one, and the very bytes of it."""

import sys
from pathlib import Path

import pytest
from qwen35_chat.notification import notification
from qwen35_chat.screens import notifier
from qwen35_chat.screens.notifier import FAILED, FINISHED, LONG_SECONDS

from qwen35_mlx.session.events import Answer, Failed, PrefillProgress
from scripts.support.terminal import Terminal
from tests.app.drive import Driver, chat, done

OSC9 = "\x1b]9;so\a"
WRAPPED = "\x1bPtmux;\x1b\x1b]9;so\a\x1b\\"
TMUX = {"TMUX": "/tmp/tmux-0/default,1,0", "TERM": "tmux-256color", "TERM_PROGRAM": "tmux"}


@pytest.mark.parametrize(
    ("environment", "auto", "osc9"),
    [
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, OSC9, OSC9),
        ({"TERM_PROGRAM": "ghostty"}, OSC9, OSC9),
        ({"TERM": "xterm-kitty"}, OSC9, OSC9),
        ({"TERM": "foot-extra"}, OSC9, OSC9),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, OSC9, OSC9),
        ({"TERM_PROGRAM": "Apple_Terminal", "TERM": "xterm-256color"}, "", OSC9),
        ({"TERM": "linux"}, "", OSC9),
        ({}, "", OSC9),
        (TMUX, "", WRAPPED),
        (TMUX | {"LC_TERMINAL": "iTerm2"}, WRAPPED, WRAPPED),
        ({"STY": "1.pts", "TERM": "screen", "LC_TERMINAL": "iTerm2"}, "", OSC9),
        ({"STY": "1.pts", "TERM": "screen", "TERM_PROGRAM": "WezTerm"}, "", OSC9),
    ],
)
def test_only_terminals_that_are_known_get_a_text(
    environment: dict[str, str], auto: str, osc9: str
) -> None:
    assert notification("auto", "so", environment) == auto
    assert notification("osc9", "so", environment) == osc9
    assert notification("bell", "so", environment) == "\a"
    assert notification("off", "so", environment) == ""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to a terminal that takes notifications."""
    written: list[str] = []
    monkeypatch.setenv("TERM_PROGRAM", "WezTerm")
    for name in ("TMUX", "STY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notifier, "write_to_terminal", lambda _, text: written.append(text))
    return written


async def reply_after(at: Driver, seconds: float, *, focused: bool = False) -> None:
    await at.send("hello")
    await at.shown([PrefillProgress(0, 100, 0)])
    at.app.app_focus = focused
    at.clock.now += seconds
    await at.shown([Answer("fine"), done()])


async def test_the_end_of_a_long_reply_is_told_in_another_window(
    home: Path, written: list[str]
) -> None:
    async with chat(home) as at:
        await reply_after(at, LONG_SECONDS - 1)
        await reply_after(at, LONG_SECONDS + 1, focused=True)
        assert written == []
        await reply_after(at, LONG_SECONDS + 1)
        assert written == [f"\x1b]9;{FINISHED}\a"]


async def test_an_error_is_told_too(home: Path, written: list[str]) -> None:
    async with chat(home) as at:
        await at.send("hello")
        at.app.app_focus = False
        at.clock.now += LONG_SECONDS + 1
        await at.shown([Failed("no memory")])
        assert written == [f"\x1b]9;{FAILED}\a"]


async def test_a_message_that_waits_is_not_the_end(home: Path, written: list[str]) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([PrefillProgress(0, 100, 0)])
        await at.send("two")
        at.app.app_focus = False
        at.clock.now += LONG_SECONDS + 1
        await at.shown([Answer("fine"), done()])
        assert written == []
        at.clock.now += LONG_SECONDS + 1
        await at.shown([Answer("fine"), done()])
        assert written == [f"\x1b]9;{FINISHED}\a"]


SHORT = """\
from qwen35_chat.screens import notifier
notifier.LONG_SECONDS = 0.5
from qwen35_chat.main import main
main(["--fake"])
"""


def test_the_bytes_reach_the_terminal_and_show_nothing(home: Path) -> None:
    written = bytearray()
    environment = {"QWEN35_HOME": str(home), "HOME": str(home), "LC_ALL": "C.UTF-8"}
    environment |= {"TERM_PROGRAM": "WezTerm", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", SHORT]
    with Terminal(command, environment=environment, on_output=written.extend) as terminal:
        terminal.until(lambda: "F1 help" in terminal.text)
        terminal.write("hello")
        terminal.until(lambda: "hello" in terminal.text)
        terminal.write("\r\x1b[O")  # the terminal says that it has lost the focus
        notice = f"\x1b]9;{FINISHED}\a".encode()
        terminal.until(lambda: notice in written)
        terminal.until(lambda: "plays a script" in terminal.text)
        assert FINISHED not in terminal.text
        assert written.count(notice) == 1
