"""What a terminal sends: keys of every protocol, pastes, and bytes that mean nothing."""

import os
import time
from collections.abc import Iterator

import pytest
from qwen35_chat.keyboard import keyboard_mode
from qwen35_chat.terminal_driver import Interpreter, TextBegins, with_texts
from qwen35_chat.terminal_input import (
    ESCAPE_SECONDS,
    LONGEST_SEQUENCE,
    PASTE_SECONDS,
    SEQUENCE_SECONDS,
    Pasted,
    TerminalInput,
)
from textual import events

from tests.app.terminal_bytes import KEYS, PASTES, sequences

SEQUENCES = int(os.environ.get("QWEN35_SEQUENCES", "2000"))
LATER = 10.0  # seconds


class Reader:
    """What the app is told about the bytes of a terminal: keys and characters."""

    def __init__(self) -> None:
        self.input = TerminalInput()
        self._interpreter = Interpreter()
        self.seen: list[str] = []
        self.events: list[object] = []

    def feed(self, data: bytes) -> None:
        self._take(self.input.feed(data))

    def pause(self, seconds: float) -> None:
        self._take(self.input.pause(seconds))

    def _take(self, tokens) -> None:
        for token in tokens:
            for event in self._interpreter.messages(token):
                self.events.append(event)
                if isinstance(event, events.Key):
                    self.seen.append(event.character if _types(event) else event.key)
                elif isinstance(event, events.Paste):
                    self.seen.append(f"paste {event.text}")


def _types(event: events.Key) -> bool:
    return event.is_printable and event.character is not None


def read(*pieces: bytes, pause: float = LATER) -> list[str]:
    reader = Reader()
    for piece in pieces:
        reader.feed(piece)
    reader.pause(pause)
    return reader.seen


@pytest.mark.parametrize("data", KEYS, ids=repr)
def test_keys_are_what_they_mean_however_they_are_cut(data: bytes) -> None:
    assert read(data) == KEYS[data]
    assert read(*(bytes([byte]) for byte in data)) == KEYS[data]
    for cut in range(1, len(data)):
        assert read(data[:cut], data[cut:]) == KEYS[data], cut


@pytest.mark.parametrize("count", [1, 5, 40, 3000])
def test_a_text_of_any_length_is_typed(count: int) -> None:
    text = "天气很好🧑\u200d🚀" * count
    numbers = ":".join(str(ord(character)) for character in text)
    assert read(f"\x1b[32;;{numbers}u".encode()) == [*text]


@pytest.mark.parametrize("text", PASTES, ids=lambda text: repr(text[:20]))
def test_a_paste_is_its_text_and_nothing_else(text: str) -> None:
    data = b"\x1b[200~" + text.encode() + b"\x1b[201~"
    for size in (1, 7, 4096, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert read(*pieces, b"\x11") == [f"paste {text}", "ctrl+q"], size


def test_bytes_of_a_paste_that_are_no_text_are_replaced() -> None:
    assert read(b"\x1b[200~a\xff\xc4\xe3b\x1b[201~") == ["paste a\ufffd\ufffd\ufffdb"]


def test_a_paste_without_an_end_makes_no_key_deaf() -> None:
    reader = Reader()
    reader.feed(b"\x1b[200~one\rtwo")
    reader.pause(PASTE_SECONDS - 0.1)
    assert reader.seen == []
    reader.pause(PASTE_SECONDS)
    reader.feed(b"\x03\x11")
    assert reader.seen == ["paste one\rtwo", "ctrl+c", "ctrl+q"]
    assert not reader.input.holds


@pytest.mark.parametrize("late", ["two\rthree", "no line ends here", "t\r"])
def test_a_paste_that_goes_on_late_is_still_a_paste(late: str) -> None:
    reader = Reader()
    reader.feed(b"\x1b[200~one\r")
    reader.pause(PASTE_SECONDS)
    reader.feed(f"{late}\x1b[201~x".encode())
    assert reader.seen == ["paste one\r", f"paste {late}", "x"]
    reader.feed(b"\r\x1b[201~\r")
    assert reader.seen[3:] == ["enter", "enter"]


@pytest.mark.parametrize("before", ["", "typed", "a line\r" * 9])
def test_another_paste_after_one_without_an_end(before: str) -> None:
    reader = Reader()
    reader.feed(b"\x1b[200~one")
    reader.pause(PASTE_SECONDS)
    reader.feed(f"{before}\x1b[200~two\x1b[201~".encode())
    assert reader.seen[0] == "paste one"
    assert reader.seen[-1] == "paste two"
    reader.seen.clear()
    reader.feed(b"a line that is long enough to be pasted\r\x1b[201~")
    assert reader.seen[-1] == "enter"


def test_a_late_piece_with_lines_waits_for_the_end_of_its_paste() -> None:
    reader = Reader()
    reader.feed(b"\x1b[200~one\r")
    reader.pause(PASTE_SECONDS)
    lines = "a line of what was pasted\r" * 3
    reader.feed(lines.encode())
    reader.feed(b"\x03")
    reader.feed(b"end\x1b[201~\x1b[A")
    assert reader.seen == ["paste one\r", f"paste {lines}\x03end", "up"]


@pytest.mark.parametrize(
    ("data", "seconds", "seen"),
    [
        (b"\x1b", ESCAPE_SECONDS, ["escape"]),
        (b"\x1b[", ESCAPE_SECONDS, ["alt+left_square_bracket"]),
        (b"\x1bO", ESCAPE_SECONDS, ["alt+shift+o"]),
        (b"\x1b]", ESCAPE_SECONDS, ["alt+right_square_bracket"]),
        (b"\xe4\xbd", ESCAPE_SECONDS, ["\ufffd"]),
        (b"\x1b[1;", SEQUENCE_SECONDS, []),
        (b"\x1b]11;rgb:00", SEQUENCE_SECONDS, []),
        (b"\x1b[M !", SEQUENCE_SECONDS, []),
    ],
)
def test_what_does_not_go_on_is_a_key_or_dropped(
    data: bytes, seconds: float, seen: list[str]
) -> None:
    reader = Reader()
    reader.feed(data)
    reader.pause(seconds - 0.01)
    assert reader.seen == []
    assert reader.input.holds
    reader.pause(seconds)
    assert reader.seen == seen
    assert not reader.input.holds
    reader.feed(b"a")
    assert reader.seen == [*seen, "a"]


def test_an_endless_sequence_is_given_up() -> None:
    reader = Reader()
    for _ in range(2 * LONGEST_SEQUENCE // 4096):
        reader.feed(b"\x1b[" + b"1;" * 2048)
    reader.feed(b"\x1b[" + b"1" * (LONGEST_SEQUENCE + 1))
    assert not reader.input.holds
    reader.feed(b"\x03")
    assert reader.seen == ["ctrl+c"]


def test_the_mouse_and_reports_of_the_terminal() -> None:
    reader = Reader()
    reader.feed(b"\x1b[<0;10;5M\x1b[<0;10;5m\x1b[<65;1;1M\x1b[<35;3;4M\x1b[I\x1b[O")
    names = [type(event).__name__ for event in reader.events]
    assert names == [
        "MouseDown", "MouseUp", "MouseScrollDown", "MouseMove", "AppFocus", "AppBlur",
    ]  # fmt: skip
    down = reader.events[0]
    assert isinstance(down, events.MouseDown)
    assert (down.x, down.y, down.button) == (9, 4, 1)
    reader.events.clear()
    reader.feed(b"\x1b[?2026;2$y\x1b[?2048;2$y\x1b[48;30;100;600;1000t\x1b[48;0;0;0;0t")
    names = [type(event).__name__ for event in reader.events]
    assert names == ["TerminalSupportsSynchronizedOutput", "InBandWindowResize", "Resize"]
    assert reader.events[2].size == (100, 30)  # pyright: ignore[reportAttributeAccessIssue]


def test_linear_time() -> None:
    """A large paste in small pieces, and a long report."""
    data = b"\x1b[200~" + b"0123456789\x1b[20" * 100_000 + b"\x1b[201~"
    reader = TerminalInput()
    began = time.process_time()
    tokens = [
        token for at in range(0, len(data), 1024) for token in reader.feed(data[at : at + 1024])
    ]
    assert time.process_time() - began < 1
    (paste,) = tokens
    assert isinstance(paste, Pasted)
    assert len(paste.text) == 1_400_000


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "\x1b[=5u"),
        ({"TERM_PROGRAM": "iTerm.app"}, "\x1b[=5u"),
        ({"TERM_PROGRAM": "ghostty"}, "\x1b[=5u"),
        ({"TERM_PROGRAM": "vscode"}, "\x1b[=0u"),
        ({"TERM_PROGRAM": "WezTerm"}, "\x1b[=0u"),
        ({"TERM_PROGRAM": "tmux", "TMUX": "/tmp/tmux,1,0"}, "\x1b[=5u\x1b[>4;1m"),
        ({"XTERM_VERSION": "XTerm(390)"}, "\x1b[=5u\x1b[>4;1m"),
    ],
)
def test_terminals_are_asked_for_what_they_do_well(environment: dict[str, str], mode: str) -> None:
    assert keyboard_mode(environment) == mode


def pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 5):
        yield data[at : at + 5]


def test_any_bytes_are_taken_and_no_key_after_them_is_lost() -> None:
    """QWEN35_SEQUENCES=20000 for more."""
    for number, data in enumerate(sequences(SEQUENCES, seed=19)):
        reader = Reader()
        for piece in pieces(data):
            reader.feed(piece)
        reader.pause(LATER)
        assert not reader.input.holds, (number, data)
        for text in reader.seen:
            text.encode()  # without surrogates
        reader.seen.clear()
        reader.feed(b"\x11")
        assert reader.seen == ["ctrl+q"], (number, data)


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        ("r", []),
        ("jjj", []),  # a key that is held
        ("\x1b[A\x1b[B", []),
        ("re", ["re"]),
        ("你好 a", ["你好 a"]),
        ("\x1b[Bwhat is\r", ["what is"]),
        ("\tkr\rab", ["kr", "ab"]),
    ],
)
def test_several_characters_of_one_read_are_a_text(read: str, texts: list[str]) -> None:
    reader, interpreter = TerminalInput(), Interpreter()
    tokens = reader.feed(read.encode())
    messages = [message for token in tokens for message in interpreter.messages(token)]
    found: list[str] = []
    text = False
    shown = list(with_texts(messages))
    for message in shown:
        if isinstance(message, TextBegins):
            found.append("")
            text = True
        elif text and isinstance(message, events.Key) and message.is_printable:
            found[-1] += message.character or ""
        else:
            text = False
    assert found == texts
    assert [m for m in shown if not isinstance(m, TextBegins)] == messages
