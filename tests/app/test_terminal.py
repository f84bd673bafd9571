"""The command in a real terminal: what a second start remembers, and that nothing is lost."""

import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from qwen35_chat.screens.progress_lines import WAITING

from qwen35_mlx.library.connections import BUSY_SECONDS
from qwen35_mlx.library.conversation import Conversation, Message, Usage
from qwen35_mlx.library.library import Library
from scripts.support.terminal import Terminal
from tests.app.real_terminal import LOADED, QUIT, chat

# Without thinking, the demo model answers this without end.
ENDLESS = "a" * 42
ENDLESS_SETTINGS = """\
thinking = "off"
repetition_guard = "off"
[sampling]
temperature = 0.0
"""
DRAFT = "what I was about to say"
# A reply that is written is saved within a second, a draft half a second after the last key; a
# machine with much else to do is given twice that.
SAVED_SECONDS = 2.0


def stored(home: Path) -> Conversation:
    """The only conversation."""
    with Library(home) as library:
        (summary,) = library.list()
        return library.conversation(summary.id)


def usage(message: Message) -> Usage:
    assert message.usage is not None
    return message.usage


def ask(terminal: Terminal, home: Path, question: str) -> Message:
    """Type a question, wait for the whole reply, and return it as stored."""
    before = messages(home)
    terminal.write(f"{question}\r")
    terminal.until(lambda: messages(home) == before + 2)
    terminal.until(lambda: stored(home).path()[-1].state == "complete")
    answer = stored(home).path()[-1]
    last = " ".join(answer.content.split())
    terminal.until(lambda: last in " ".join(terminal.text.split()))
    return answer


def messages(home: Path) -> int:
    with Library(home) as library:
        return sum(summary.messages for summary in library.list())


def left_as_it_was(terminal: Terminal, settings: list[Any]) -> bool:
    """Whether the program has restored the terminal."""
    asked = {25, 7}  # the cursor is shown, lines wrap; no alternate screen, mouse, paste marks
    return terminal.screen.modes == asked and terminal.settings == settings


def test_a_second_start_remembers_and_reads_nothing_again(home: Path) -> None:
    with chat(home, "--seed", "1") as terminal:
        settings = terminal.settings
        terminal.until(lambda: LOADED in terminal.text)
        first = ask(terminal, home, "My name is Ada.")
        second = ask(terminal, home, "What is my name?")
        assert "Ada" in second.content
        assert usage(second).cached_tokens > usage(first).prompt_tokens // 2
        terminal.write(QUIT)
        assert terminal.wait() == 0
        assert left_as_it_was(terminal, settings)
        assert terminal.text.strip() == "To go on with this conversation: qwen35-chat --resume 1"
    with chat(home, "--seed", "1", "--continue") as terminal:
        terminal.until(lambda: "My name is Ada." in terminal.text)
        terminal.until(lambda: re.search(r"\d\d / [\d,]+ \(", terminal.text))  # counted
        third = ask(terminal, home, "What is my name?")
        assert "Ada" in third.content
        read = usage(third).prompt_tokens - usage(third).cached_tokens
        asked_before = usage(second).prompt_tokens - usage(second).cached_tokens
        # As much as the same question took without a start in between: its own tokens.
        assert read <= asked_before + len(second.content)
        assert usage(third).cached_tokens > usage(second).cached_tokens
        terminal.write(QUIT)
        assert terminal.wait() == 0


def answer_on(terminal: Terminal) -> str:
    """The letters of the answer on the screen: all of them, unless they fill it."""
    lines = terminal.screen.lines
    heads = [n for n, line in enumerate(lines) if line.startswith("◆")]
    if not heads:
        return ""
    found = re.match("a*", "".join("".join(lines[heads[0] + 1 :]).split()))
    return found.group() if found else ""


def in_a_reply(terminal: Terminal) -> None:
    """Ask for a long reply, and type while it is written."""
    terminal.until(lambda: LOADED in terminal.text)
    terminal.write(f"{ENDLESS}\r")
    terminal.until(lambda: len(answer_on(terminal)) > 60)
    terminal.write(DRAFT)
    terminal.until(lambda: DRAFT in terminal.text)


def kept(home: Path, seen: str, state: str) -> None:
    """Check that the library has what was on the screen."""
    assert len(seen) > 60
    conversation = stored(home)
    question, reply = conversation.path()
    assert question.content == ENDLESS
    assert reply.state == state
    assert "".join(reply.content.split()).startswith(seen)
    assert conversation.draft == DRAFT


@pytest.fixture
def opened(home: Path) -> Path:
    """A home whose settings let `ENDLESS` be answered without end."""
    (home / "settings.toml").write_text(ENDLESS_SETTINGS)
    return home


@pytest.mark.parametrize("by", ["key", "SIGTERM"])
def test_an_end_in_a_reply_loses_nothing_and_leaves_the_terminal(opened: Path, by: str) -> None:
    with chat(opened, "--seed", "1") as terminal:
        settings = terminal.settings
        in_a_reply(terminal)
        seen = answer_on(terminal)
        if by == "key":
            terminal.write(QUIT)
        else:
            terminal.send_signal(signal.SIGTERM)
        assert terminal.wait() == (0 if by == "key" else 128 + signal.SIGTERM)
        assert left_as_it_was(terminal, settings)
        assert "Traceback" not in terminal.text
    kept(opened, seen, "cancelled")


def test_a_window_that_is_closed_in_a_reply_loses_nothing(opened: Path) -> None:
    with chat(opened, "--seed", "1") as terminal:
        in_a_reply(terminal)
        seen = answer_on(terminal)
        terminal.close()
        assert terminal.wait() == 128 + signal.SIGHUP
    kept(opened, seen, "cancelled")


def test_a_kill_in_a_reply_loses_a_second_of_it(opened: Path) -> None:
    with chat(opened, "--seed", "1") as terminal:
        in_a_reply(terminal)
        seen, since = answer_on(terminal), time.monotonic()
        terminal.until(lambda: time.monotonic() - since > SAVED_SECONDS)
        assert terminal.kill() == -signal.SIGKILL
    kept(opened, seen, "partial")
    with chat(opened, "--continue") as terminal:
        terminal.until(lambda: DRAFT in terminal.text and "Cut off" in terminal.text)
        terminal.write(QUIT)
        assert terminal.wait() == 0


def test_the_window_of_a_terminal_may_shrink_and_grow(home: Path) -> None:
    with chat(home, "--fake", size=(120, 40)) as terminal:
        terminal.until(lambda: LOADED in terminal.text)
        terminal.write("show me\r")
        terminal.until(lambda: "this engine plays a script" in terminal.text)
        for columns, rows in ((50, 20), (20, 8), (120, 40)):
            terminal.resize(columns, rows)
            # All of it is drawn anew: the composer, and the line below it in the last row.
            terminal.until(lambda: "Write" in terminal.text and "demo" in terminal.screen.lines[-1])
        terminal.until(lambda: "this engine plays a script" in terminal.text)
        terminal.write(QUIT)
        assert terminal.wait() == 0


def test_an_error_before_the_screen_is_one_line_on_it(home: Path) -> None:
    with chat(home, "--continue") as terminal:
        assert terminal.wait() == 2
        assert terminal.text.strip().startswith("error: there is no conversation to go on with")
        assert len(terminal.text.strip().splitlines()) <= 2
        assert 1049 not in terminal.screen.modes


def test_keys_show_while_another_process_writes_and_nothing_is_lost(home: Path) -> None:
    soon = BUSY_SECONDS / 2  # the save of the draft waits for longer
    with chat(home) as terminal:
        terminal.until(lambda: LOADED in terminal.text)
        other = sqlite3.connect(home / "library.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        terminal.write("one ")
        terminal.until(lambda: "one" in terminal.text and WAITING in terminal.text, soon)
        terminal.write("two three")
        terminal.until(lambda: "one two three" in terminal.text, soon)
        terminal.write("\x13")  # a list, which reads
        terminal.until(lambda: "No conversation yet" in terminal.text, soon)
        terminal.write("\x1b")
        terminal.until(lambda: "No conversation yet" not in terminal.text)
        terminal.write(QUIT)
        terminal.until(lambda: "waiting for another window" in terminal.text, soon)
        other.execute("COMMIT")
        other.close()
        assert terminal.wait() == 0
        assert "error" not in terminal.text
    with Library(home) as library:
        assert library.draft(None) == "one two three"
