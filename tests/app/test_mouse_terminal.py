"""The mouse in a real terminal: SGR sequences in, the clipboard's sequences out."""

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from scripts.support.terminal import Terminal
from tests.app.real_terminal import LOADED, QUIT, chat

COPY = re.compile(rb"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")
REPLY = "this engine plays a script"


class Mouse:
    """The mouse of a terminal, and what it has copied."""

    def __init__(self, terminal: Terminal, output: bytearray):
        self.terminal = terminal
        self._output = output

    @property
    def copied(self) -> list[str]:
        return [base64.b64decode(text).decode() for text in COPY.findall(bytes(self._output))]

    def sends(self, text: str, *sequences: str) -> str:
        """Write the sequences, wait for a copy of something with this text, and return it."""
        before = len(self.copied)
        for sequence in sequences:
            self.terminal.write(sequence)
            self.terminal.pump(0.02)
        self.terminal.until(lambda: any(text in copy for copy in self.copied[before:]), 20)
        return self.copied[-1]

    def find(self, text: str, at: int = 0) -> tuple[int, int]:
        """The cell of a character of a text, where it comes last."""
        for y, line in reversed(list(enumerate(self.terminal.screen.lines))):
            if (x := line.rfind(text)) >= 0:
                return cell_len(line[: x + at]), y
        raise AssertionError(f"{text!r} is not on the screen:\n{self.terminal.text}")


def down(at: tuple[int, int]) -> str:
    return f"\x1b[<0;{at[0] + 1};{at[1] + 1}M"


def move(at: tuple[int, int]) -> str:
    return f"\x1b[<32;{at[0] + 1};{at[1] + 1}M"


def up(at: tuple[int, int]) -> str:
    return f"\x1b[<0;{at[0] + 1};{at[1] + 1}m"


@pytest.fixture(scope="module")
def mouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mouse]:
    """A chat with a reply of the demonstration, in which the tests take turns."""
    home: Path = tmp_path_factory.mktemp("home")
    output = bytearray()
    with chat(home, "--fake", size=(70, 30), on_output=output.extend) as terminal:
        terminal.until(lambda: LOADED in terminal.text)
        terminal.write("我们在北京。 show me\r")
        terminal.until(lambda: REPLY in terminal.text and "Writing" not in terminal.text)
        yield Mouse(terminal, output)
        terminal.write(QUIT)
        assert terminal.wait() == 0


@pytest.fixture(autouse=True)
def calm(mouse: Mouse) -> None:
    """Nothing is selected, and the last press is long ago."""
    mouse.terminal.write("\x1b")
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        mouse.terminal.pump(0.1)


def test_a_drag_over_three_words_copies_these(mouse: Mouse) -> None:
    start, end = mouse.find("Here is a list"), mouse.find("Here is a list", 8)
    assert mouse.sends("Here", down(start), move((start[0] + 3, start[1])), move(end), up(end)) == (
        "Here is a"
    )
    mouse.terminal.until(lambda: "Copied" in mouse.terminal.text)


def test_ctrl_c_copies_what_is_selected_and_does_not_quit(mouse: Mouse) -> None:
    start, end = mouse.find("a second"), mouse.find("a second", 7)
    mouse.sends("a second", down(start), move(end), up(end))
    assert mouse.sends("a second", "\x03") == "a second"
    mouse.terminal.write("still here")
    mouse.terminal.until(lambda: "still here" in mouse.terminal.text)
    mouse.terminal.write("\x7f" * len("still here"))
    mouse.terminal.until(lambda: "still here" not in mouse.terminal.text)


def test_a_double_click_on_chinese_selects_a_word(mouse: Mouse) -> None:
    at = mouse.find("北")
    assert mouse.sends("北", *[down(at), up(at)] * 2) == "北京"


def test_a_triple_click_selects_a_line(mouse: Mouse) -> None:
    at = mouse.find("first")
    assert mouse.sends("point", *[down(at), up(at)] * 3) == "a first point"


def test_code_is_dragged_over_as_it_was_written(mouse: Mouse) -> None:
    start, end = mouse.find("def greet"), mouse.find('{name}!"', 7)
    code = 'def greet(name: str) -> str:\n    return f"Hello, {name}!"'
    assert mouse.sends("return", down(start), move(end), up(end)) == code
    # From the end to the start as well.
    assert mouse.sends("return", down(end), move(start), up(start)) == code


def test_a_click_on_copy_copies_the_code(mouse: Mouse) -> None:
    at = mouse.find("copy")
    assert mouse.sends("def", down(at), up(at)).startswith("def greet")


def test_what_is_typed_after_a_click_is_typed(mouse: Mouse) -> None:
    at = mouse.find("first")
    mouse.terminal.write(down(at) + up(at))
    mouse.terminal.until(lambda: "retry" in mouse.terminal.text)
    mouse.terminal.write("really?")
    mouse.terminal.until(lambda: "really?" in mouse.terminal.text)
    mouse.terminal.until(lambda: "retry" not in mouse.terminal.text)
    mouse.terminal.write("\x7f" * len("really?"))
    mouse.terminal.until(lambda: "really?" not in mouse.terminal.text)


def test_a_click_in_a_view_that_is_scrolled_up_acts_while_a_reply_streams(mouse: Mouse) -> None:
    terminal = mouse.terminal
    terminal.write("again\r")
    terminal.until(lambda: "again" in terminal.text and "Writing" in terminal.text)
    terminal.write("\x1b[5~" * 3)
    terminal.until(lambda: "北京" in terminal.screen.lines[1] and "copy" in terminal.text)
    terminal.pump(0.2)  # the rest of that frame
    top, at = terminal.screen.lines[0], mouse.find("copy")
    assert mouse.sends("def", down(at), up(at)).startswith("def greet")
    assert terminal.screen.lines[0] == top
    terminal.until(lambda: "Writing" not in terminal.text)
    assert terminal.screen.lines[0] == top
    # Beyond the lower edge the view scrolls, and what comes into it is selected.
    start, below = mouse.find("3 words. Here is", 9), (20, terminal.screen.rows - 1)
    terminal.write(down(start))
    terminal.pump(0.1)
    terminal.write(move(below))
    terminal.until(lambda: terminal.screen.lines[0] != top and "again" in terminal.text)
    assert mouse.sends("again", up(below)).startswith("Here is a list:\n\n1. a *first* point")


def test_text_in_one_write_is_typed_while_a_message_is_marked(mouse: Mouse) -> None:
    terminal = mouse.terminal
    for text in ("What is the name of my dog", "retry by continuing", "re"):
        terminal.write("\t")
        terminal.until(lambda: "c copy" in terminal.text)
        terminal.write(text)
        terminal.until(lambda text=text: f"│ {text} " in terminal.text)
        terminal.until(lambda: "c copy" not in terminal.text)
        assert "Writing" not in terminal.text
        terminal.write("\x15")
        terminal.until(lambda text=text: f"│ {text} " not in terminal.text)
