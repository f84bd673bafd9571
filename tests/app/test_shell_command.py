"""`!command`: what runs, what never does, and what goes into the message."""

import os
import time
from pathlib import Path

import pytest
from qwen35_chat import shell_command as module
from qwen35_chat.attachments import attached
from qwen35_chat.options import Start
from qwen35_chat.screens.answers import ARMED_SECONDS
from qwen35_chat.shell_command import Output, ShellRun, shell_command
from textual import events

from tests.app.drive import Driver, chat
from tests.app.plain_drive import PlainChat


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")


@pytest.fixture
def on(home: Path) -> Path:
    """A settings file that allows commands."""
    file = home / "settings.toml"
    file.write_text('shell_commands = "on"\n')
    return file


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("!ls", "ls"),
        ("! git diff  \n", "git diff"),
        ("！ls", "ls"),  # of an input method
        ("！！！", ""),
        ("！！ls", ""),
        ("!！ls", ""),
        ("!", ""),
        ("!!!", ""),
        ("!![x]", ""),
        ("![a picture](x.png)", ""),
        (" !ls", ""),
        ("so !ls", ""),
        ("!ls\nwhat is this?", ""),
        ("", ""),
    ],
)
def test_a_command_is_one_line_after_an_exclamation_mark(text: str, command: str) -> None:
    assert shell_command(text) == command


def run(command: str, seconds: float = 20) -> Output:
    running = ShellRun(command)
    assert running.wait(seconds)
    assert running.output is not None
    return running.output


def test_output_errors_and_exit_code_are_kept_in_order() -> None:
    output = run("echo one; echo two >&2; echo three; exit 3")
    assert (output.text, output.end) == ("one\ntwo\nthree", "exit code 3")
    assert output.quoted.startswith("```console\n$ echo one;")
    assert output.quoted.endswith("\none\ntwo\nthree\n[exit code 3]\n```")


def test_colours_progress_and_control_characters_are_left_out() -> None:
    text = r"printf '\033[31mred\033[0m \033]0;title\007a\b\033c\n10%%\r20%%\r30%%\nend\r\n\377\n'"
    assert run(text).text == "red a\n30%\nend\n\ufffd"


def test_a_command_has_no_input_and_no_terminal() -> None:
    output = run("cat; [ -t 0 ] || echo no input; (: </dev/tty) 2>/dev/null || echo no terminal")
    assert output.text == "no input\nno terminal"


def test_a_fence_in_the_output_does_not_end_the_block(tmp_path: Path) -> None:
    quoted = Output("cat x", "```\n@notes.txt\n````", "exit code 0").quoted
    assert quoted.startswith("`````console\n")
    assert attached(quoted, tmp_path).text == quoted


def test_a_long_output_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    output = run("yes | head -c 300000")
    assert len(output.text) in (99, 100)
    assert output.end == "exit code 0; the first 100 of 300,000 bytes"


def alive(file: Path) -> bool:
    """Whether the process whose id is in this file runs."""
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{file.read_text().strip()}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(file: Path) -> bool:
    end = time.monotonic() + 5
    while alive(file) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(file)


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("sleep 100 & echo $! > pid; wait", "stopped after 0.3 s"),
        ("exec >/dev/null 2>&1; sleep 100 & echo $! > pid; wait", "stopped after 0.3 s"),
        ("sleep 100 & echo $! > pid", "exit code 0"),
    ],
    ids=["waits", "closes its output", "leaves a process"],
)
def test_a_command_and_all_it_starts_end(
    command: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.3)
    assert run(command).end == end
    assert gone(Path("pid"))


def test_a_stop_ends_it_at_once() -> None:
    running = ShellRun("sleep 100 & echo $! > pid; echo begun; wait")
    while "begun" not in running.text:
        time.sleep(0.01)
    running.stop()
    assert running.wait(5)
    assert running.output is not None
    assert (running.output.text, running.output.end) == ("begun", "stopped")
    assert gone(Path("pid"))


def test_a_shell_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/no/such/shell")
    assert run("ls").end == "not run: /no/such/shell: No such file or directory"


async def shown(at: Driver, text: str) -> None:
    await at.until(lambda: text in at.text)
    at.clock.now += 2 * ARMED_SECONDS


async def test_the_output_is_shown_and_added_to_the_message(home: Path, on: Path) -> None:
    async with chat(home, settings=on) as at:
        await at.press(*"!echo so; exit 2", "enter")
        await shown(at, "Exit code 2")
        assert "so" in at.text.split("$ echo so; exit 2")[1]
        await at.press("enter")
        assert at.typed == "[output 1: 3 lines]\n"
        await at.press(*"why?", "enter")
        assert at.sent == ["```console\n$ echo so; exit 2\nso\n[exit code 2]\n```\nwhy?"]


async def test_an_output_that_is_dropped_leaves_the_command(home: Path, on: Path) -> None:
    async with chat(home, settings=on) as at:
        await at.press(*"!echo so", "enter")
        await shown(at, "Exit code 0")
        await at.press("escape")
        assert at.typed == "!echo so"
        await at.press("backspace", "backspace", *"it", "enter")  # amended, and still typed
        await shown(at, "$ echo it")
        await shown(at, "Exit code 0")
        await at.press("down", "enter")
        assert at.sent == []


async def test_escape_stops_a_command_first(home: Path, on: Path) -> None:
    async with chat(home, settings=on) as at:
        await at.press(*"!sleep 100", "enter")
        await at.until(lambda: "Esc stops it" in at.text)
        await at.press("escape")
        await shown(at, "Stopped")
        await at.press("escape")
        assert at.typed == "!sleep 100"


async def test_commands_are_off_at_first_and_a_line_says_so(home: Path) -> None:
    async with chat(home, size=(120, 24)) as at:
        await at.press(*"!touch ran", "enter")
        assert "/settings shell_commands on allows them" in at.text
        assert at.typed == "!touch ran"
        assert at.sent == []
        await at.press("home", "space", "enter")
        assert at.sent == [" !touch ran"]
        await at.shown()
        assert not Path("ran").exists()


async def test_only_what_was_typed_key_by_key_is_run(home: Path, on: Path) -> None:
    async def paste(at: Driver, text: str) -> None:
        at.composer.post_message(events.Paste(text))
        await at.pilot.pause()

    start = Start(message="!touch start")
    async with chat(home, settings=on, size=(120, 24), start=start) as at:
        await at.until(lambda: "has to be typed" in at.text)

        async def refused() -> None:
            at.app.chat.show_message("")
            await at.press("enter")
            assert "has to be typed, key by key" in at.text
            at.composer.clear()
            await at.pilot.pause()

        await refused()
        await paste(at, "!touch paste")
        await refused()
        await at.press("!")
        await paste(at, "touch paste")
        await refused()
        await paste(at, "x!touch undo")
        await at.press("home", "delete")
        await refused()
        await paste(at, "!touch undo")
        at.composer.clear()
        await at.press("a", "backspace")  # from here on it would be typed
        while at.typed != "!touch undo":
            at.composer.undo()
        await refused()
        at.composer.put_back("!touch put")
        await refused()
        Path("touch x").touch()
        await at.press(*"!echo @tou", "tab")
        assert "touch x" not in at.typed
        assert at.sent == []
        assert not list(Path().glob("[psu]*"))


async def test_a_paste_is_a_message_while_commands_are_off(home: Path) -> None:
    async with chat(home) as at:
        at.composer.post_message(events.Paste("!ls"))
        await at.press("enter")
        assert at.sent == ["!ls"]


async def test_a_key_that_reaches_the_composer_from_a_message_is_typed(
    home: Path, on: Path
) -> None:
    async with chat(home, settings=on) as at:
        await at.turn("hello")
        await at.press("tab", *"!echo so", "enter")
        await shown(at, "$ echo so")


def test_plain_mode_runs_no_command(home: Path, on: Path) -> None:
    session = PlainChat(home)
    assert "needs the screen" in session.run("!touch ran")
    assert session.engine.sent == []
    session.library.close()
    assert not Path("ran").exists()
