"""What is typed and pasted at a real terminal, and Ctrl+Z, in the command itself."""

import os
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scripts.support.terminal import Terminal
from tests.app.real_terminal import COMMAND, LOADED, QUIT, chat
from tests.app.terminal_bytes import sequences

SEQUENCES = int(os.environ.get("QWEN35_SEQUENCES", "50"))
BATCH = 100  # sequences between two signs of life
EMPTY = ("(Enter sends this)", "Write a message")  # what the composer shows then
PASTE = "\x1b[200~{}\x1b[201~"


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A chat in which the tests take turns; each begins with an empty composer."""
    with chat(tmp_path_factory.mktemp("home"), "--fake", size=(90, 30)) as terminal:
        terminal.until(lambda: LOADED in terminal.text)
        yield terminal
        terminal.write(QUIT)
        assert terminal.wait() == 0
        assert terminal.text.strip() == ""


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "terminal" in request.fixturenames:
        terminal = request.getfixturevalue("terminal")
        terminal.write("x")
        terminal.until(lambda: not any(sign in terminal.text for sign in EMPTY), 20)
        terminal.write("\x03")
        terminal.until(lambda: any(sign in terminal.text for sign in EMPTY), 20)


def typed(terminal: Terminal, data: bytes | str, shown: str) -> None:
    """Send bytes, and wait for what they type."""
    terminal.write(data)
    terminal.until(lambda: shown in terminal.text, 20)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[32;;25105:20204:20170:22825:19979u", "我们今天下"),
        (b"\x1b[;;20170:22825:22825:27668:24456:22909:65292:25105:20204u", "今天天气很好，我们"),
        ("한국어와 日本語　全角".encode(), "한국어와 日本語　全角"),
        (b"ab\xff\xc4\xe3\x1b[M !\xe9\x1b[M\xc3\xa9xcd", "ab\ufffd\ufffd\ufffdcd"),
        (b"two\x1b[1092;5uone ", "one two"),  # Ctrl+A on a Russian keyboard, without its base
        (b"two\x1b[1092::97;5uone ", "one two"),
        (b"gone\x1b[27;5;1075~kept", "kept"),  # Ctrl+U in tmux
        # An input method for Vietnamese takes back letters.
        ("tie\x7f\x7fiêng vie\x7f\x7fiệt".encode(), "tiêng việt"),
        (b"acd\x1b[D\x1b[Db", "abcd"),
    ],
)
def test_text_and_shortcuts_of_every_keyboard(terminal: Terminal, data: bytes, shown: str) -> None:
    typed(terminal, data, shown)
    assert "gone" not in terminal.text


def test_keys_act_in_their_order(terminal: Terminal) -> None:
    """All of them arrive at once."""
    typed(terminal, "what I sent\rand what I write then", "and what I write then")
    terminal.until(lambda: "▌ what I sent" in terminal.text)
    assert "what I sentand" not in terminal.text
    terminal.until(lambda: "Writing" not in terminal.text and "plays a script" in terminal.text)
    terminal.write("\x03")  # what is typed goes into the history
    terminal.until(lambda: "and what I write then" not in terminal.text)
    typed(terminal, "\x1b[A, too", "and what I write then, too")


@pytest.mark.parametrize("key", ["\x1b[13;2u", "\x1b[27;2;13~", "\x1b\r", "\n", "\x1b[13;3u"])
def test_a_key_for_a_new_line_begins_one(terminal: Terminal, key: str) -> None:
    typed(terminal, f"above{key}below", "below")
    above, below = (
        next(n for n, line in enumerate(terminal.screen.lines) if word in line)
        for word in ("above", "below")
    )
    assert below == above + 1


def test_a_paste_calls_nothing(terminal: Terminal) -> None:
    text = "a\x1b\rb\x1b\x11c\x1b]52;c;YQ==\x07d\x1b[Ae\x03\x1a\x07the end"
    typed(terminal, PASTE.format(text), "the end")
    shown = "".join(line.strip(" │") for line in terminal.screen.lines)
    assert "a␛b␛␑c␛]52;c;YQ==␇d␛[Ae␃␚␇the end" in shown


def test_a_paste_without_an_end_leaves_the_keys(terminal: Terminal) -> None:
    typed(terminal, "\x1b[200~pasted", "pasted")
    typed(terminal, "\x15typed", "typed")
    assert "pasted" not in terminal.text


def test_undo_has_a_key_of_its_own(terminal: Terminal) -> None:
    typed(terminal, "first" + PASTE.format("second"), "firstsecond")
    terminal.write("\x1f")
    terminal.until(lambda: "firstsecond" not in terminal.text)
    assert "first" in terminal.text


def test_a_chat_that_no_shell_started_says_so_on_ctrl_z(terminal: Terminal) -> None:
    typed(terminal, "what I write\x1a", "no shell has started this chat")
    typed(terminal, " goes on", "what I write goes on")


def test_ctrl_z_gives_the_shell_its_terminal_and_takes_it_back(home: Path) -> None:
    """The chat is started by a script, which stops with it."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "HOME": str(home), "QWEN35_HOME": str(home), "PS1": "shell> "}
    environment |= {"TMUX": "as in tmux", "LC_ALL": "C.UTF-8"}
    seen = bytearray()
    with Terminal(
        ["bash", "--norc", "-i"], environment=environment, size=(90, 30), on_output=seen.extend
    ) as terminal:
        terminal.until(lambda: "shell>" in terminal.text)
        before = terminal.settings, terminal.screen.modes
        terminal.write(f"sh -c '{COMMAND} --fake; echo its end is $?'\r")
        terminal.until(lambda: LOADED in terminal.text)
        assert b"\x1b[>4;1m" in seen
        terminal.write("typed")
        terminal.until(lambda: "typed" in terminal.text)
        terminal.write("\x1b[1103::122;5u")
        terminal.until(lambda: "Stopped" in terminal.text, 20)
        terminal.write("echo it is mine\r")
        terminal.until(lambda: "\nit is mine" in terminal.text, 20)
        # The shell takes its own paste mode back after it has printed this.
        terminal.until(lambda: (terminal.settings, terminal.screen.modes) == before, 20)
        assert seen.rindex(b"\x1b[>4m") > seen.rindex(b"\x1b[>4;1m")
        terminal.write("bg\r")
        time.sleep(0.3)
        terminal.write("echo still mine\r")
        terminal.until(lambda: "\nstill mine" in terminal.text, 20)
        terminal.write("fg\r")
        terminal.until(lambda: "typed" in terminal.text and LOADED in terminal.text, 20)
        terminal.write(" more")
        terminal.until(lambda: "typed more" in terminal.text, 20)
        terminal.write(QUIT)
        terminal.until(lambda: "its end is 0" in terminal.text, 20)


def test_signals_of_keys_are_for_the_editor_while_it_has_the_terminal(home: Path) -> None:
    editor = home / "editor"
    editor.write_text(
        "#!/bin/sh\ntrap 'echo interrupted; got=1' INT\necho the editor is open\n"
        'while [ -z "$got" ]; do sleep 0.05; done\necho edited > "$1"\n'
    )
    editor.chmod(0o755)
    with chat(home, "--fake", variables={"VISUAL": str(editor)}) as terminal:
        terminal.until(lambda: LOADED in terminal.text)
        terminal.write("\x07")
        terminal.until(lambda: "the editor is open" in terminal.text, 20)
        terminal.write("\x03")
        terminal.until(lambda: "│ edited" in terminal.text, 20)
        terminal.write(QUIT)
        assert terminal.wait() == 0


@pytest.mark.parametrize("typed", ["", "\x1c", "\x1c\x13"])  # Ctrl+\\, and Ctrl+S after it
def test_an_editor_that_fails_gives_the_terminal_back(home: Path, typed: str) -> None:
    editor = home / "editor"
    editor.write_text("#!/bin/sh\necho the editor is open\nsleep 1\nexit 7\n")
    editor.chmod(0o755)
    with chat(home, "--fake", variables={"VISUAL": str(editor)}) as terminal:
        terminal.until(lambda: LOADED in terminal.text)
        terminal.write("kept\x07")
        terminal.until(lambda: "the editor is open" in terminal.text, 20)
        terminal.write(typed)
        terminal.until(lambda: "nothing is changed" in terminal.text, 20)
        terminal.write(" and more")
        terminal.until(lambda: "│ kept and more" in terminal.text, 20)
        terminal.write(QUIT)
        assert terminal.wait() == 0


@pytest.mark.parametrize(("term", "paste"), [("xterm", PASTE), ("dumb", "{}")])
def test_plain_mode_takes_a_paste_as_one_message(home: Path, term: str, paste: str) -> None:
    with chat(home, "--fake", "--plain", variables={"TERM": term}) as terminal:
        terminal.until(lambda: "You:" in terminal.text)
        terminal.write(paste.format("one\r二\rthree"))
        terminal.until(lambda: "three" in terminal.text)
        terminal.write(" and more\r")
        terminal.until(lambda: "You wrote **5 words**" in terminal.text)
        terminal.kill()


def alive(terminal: Terminal, sign: str) -> bool:
    """Whether what is typed now can be seen; False if a sequence has ended the chat."""
    for seconds in (5, 5, 30):
        try:
            if terminal.settings[0] & termios.IXON:  # at its end, or while an editor is open
                terminal.write("\x11")  # output goes on after Ctrl+S
            for _ in range(4):  # lists and questions that are open
                terminal.write("\x1b")
                time.sleep(0.2)  # what is typed at once would go to a list that is closing
                terminal.drain()
            terminal.write(sign)
            terminal.until(lambda: sign in terminal.text, seconds)
            terminal.write("\x03")
            return True
        except (TimeoutError, OSError):
            with suppress(TimeoutError):  # it is late, or an open list has taken the sign
                # A key has quit; the rest of the bytes was echoed, or has sent a signal.
                assert terminal.wait(1) in (0, -signal.SIGINT, -signal.SIGQUIT)
                assert "Traceback" not in terminal.text
                assert "hit an error" not in terminal.text
                return False
    raise AssertionError(f"{sign} did not appear; the screen:\n{terminal.text}")


def test_no_bytes_end_the_chat(home: Path) -> None:
    """QWEN35_SEQUENCES=20000 for more."""
    left = sequences(SEQUENCES, seed=35)
    variables = {"VISUAL": "true"}
    while left:
        with chat(home, "--fake", size=(90, 30), variables=variables) as terminal:
            terminal.until(lambda terminal=terminal: LOADED in terminal.text)
            while left:
                batch, left = left[:BATCH], left[BATCH:]
                for data in batch:
                    terminal.write(data)
                    terminal.pump(0.001)
                if not alive(terminal, chr(0x4E00 + len(left) // BATCH)):
                    break
            else:
                terminal.kill()
