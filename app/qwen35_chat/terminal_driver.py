"""The driver of the terminal: Textual's, with another reader of what the terminal sends.

docs/terminal.md names the faults of Textual's own that this goes around.
"""

import os
import re
import selectors
import signal
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby

from textual import constants, events, messages
from textual._xterm_parser import IS_ITERM, XTermParser
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from qwen35_chat.background import DEAF, QUERY, answered_colour
from qwen35_chat.keyboard import (
    MODIFY_OTHER_KEYS,
    USUAL_KEYS,
    KeyPress,
    alt_key,
    key_presses,
    keyboard_mode,
    typed_key,
)
from qwen35_chat.terminal_input import ESCAPE, Pasted, Sequence, TerminalInput, Token, Typed
from qwen35_chat.textual_private import legacy_keys

# Numbers with few digits: larger ones are no answer to anything, and would overflow.
_MODE = re.compile(r"\x1b\[\?(\d{1,5});(\d)\$y")
_SIZE = re.compile(r"\x1b\[48;([1-9]\d{0,3});([1-9]\d{0,3});([1-9]\d{0,4});([1-9]\d{0,4})t")
_MOUSE = re.compile(r"\x1b\[<\d{1,4};-?\d{1,5};-?\d{1,5}[Mm]")
_FOCUS = {"\x1b[I": events.AppFocus, "\x1b[O": events.AppBlur}
_NO_TEXT = ("Cc", "Cs")  # categories of characters
_BACKGROUND_SECONDS = 0.05  # between two attempts to stop


class BackgroundAnswered(Message):
    """The terminal has told its background colour.

    Attributes:
        colour: as terminals write it: rgb:1515/1717/1c1c.
    """

    def __init__(self, colour: str):
        super().__init__()
        self.colour = colour


class TypedKey(events.Key):
    """A key, printable if it types any text.

    For Textual, nobody types a joiner of emoji, a full-width space, or a no-break space.
    """

    @property
    def is_printable(self) -> bool:
        return self.character is not None and unicodedata.category(self.character) not in _NO_TEXT


TypedKey.handler_name = events.Key.handler_name


class NotSuspended(Message):
    """The chat was not stopped, since no shell could let it go on."""


def chat_driver(usual: type[Driver]) -> type[Driver]:
    """The driver to use in place of Textual's usual one."""
    return TerminalDriver if usual is LinuxDriver else usual


@contextmanager
def signals_for_others() -> Iterator[None]:
    """Leave Ctrl+C and Ctrl+\\ to another program, while that has the terminal."""
    numbers = (signal.SIGINT, signal.SIGQUIT)
    # Handlers, since the program would inherit that a signal is ignored.
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class TerminalDriver(LinuxDriver):
    """A driver that survives any bytes, and that leaves the terminal to the shell on Ctrl+Z.

    It requests the terminal's background colour, also after a suspension.
    """

    _continued = False
    _other_keys = False

    def start_application_mode(self) -> None:
        super().start_application_mode()
        if not constants.DISABLE_KITTY_KEY:
            mode = keyboard_mode(os.environ)
            self._other_keys = MODIFY_OTHER_KEYS in mode
            self.write(mode)
        if os.environ.get("TERM", "") not in DEAF:
            self.write(QUERY)
        self.flush()

    def stop_application_mode(self) -> None:
        if self._other_keys:
            self.write(USUAL_KEYS)
        super().stop_application_mode()

    # Input

    def _run_input_thread(self) -> None:
        """Read until the end; a fault ends the app as any other does."""
        try:
            self.run_input_thread()
        except Exception as error:
            self._app.call_later(_raise, error)

    def run_input_thread(self) -> None:
        reader, interpreter = TerminalInput(), Interpreter()
        read_at = time.monotonic()
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(0.02 if reader.holds else 0.1):
                    data = os.read(self.fileno, 1 << 16)
                    tokens, read_at = reader.feed(data), time.monotonic()
                    if not data:  # the terminal is gone
                        self.exit_event.wait(0.1)
                else:
                    tokens = reader.pause(time.monotonic() - read_at)
                read = (message for token in tokens for message in interpreter.messages(token))
                for message in with_texts(read):
                    self.process_message(message)
            if selector.select(0.1):  # what still arrives is not for the next program
                os.read(self.fileno, 4096)

    # Ctrl+Z

    def _sigtstp_application(self, *_: object) -> None:
        """Leave the terminal, stop until the shell lets the chat go on, and take it back."""
        if not self._auto_restart:  # another program has the terminal, and Ctrl+Z was meant for it
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        self.suspend_application_mode()
        self._continued = False
        self._stop_job()
        self._must_signal_resume = True
        self.resume_application_mode()
        if not self._continued:
            self.process_message(NotSuspended())

    def _sigcont_application(self, *_: object) -> None:
        """Note that the shell lets the chat go on. Where it was stopped, it does."""
        self._continued = True

    def _stop_job(self) -> None:
        """Stop all processes of the job, also a wrapper that started this one.

        The system does not stop a job that no shell controls.
        """
        while True:
            handler = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
            os.kill(0, signal.SIGTSTP)
            # This one by its thread, so that it has stopped and gone on when the call returns.
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)
            try:
                if os.tcgetpgrp(self.fileno) == os.getpgrp():
                    return
            except OSError:  # the terminal is gone
                return
            time.sleep(_BACKGROUND_SECONDS)  # it goes on in the background, without the terminal


def _raise(error: Exception) -> None:
    raise error


class TextBegins(Message):
    """The keys that follow are text, and no commands."""


def with_texts(messages: Iterable[Message]) -> Iterator[Message]:
    """The messages of one read, with `TextBegins` before each run of keys that is text.

    A key is pressed by itself, or held. Several characters at once are pasted or dictated.
    """
    for prints, run in groupby(messages, lambda m: isinstance(m, events.Key) and m.is_printable):
        keys = list(run)
        if prints and len({key.key for key in keys if isinstance(key, events.Key)}) > 1:
            yield TextBegins()
        yield from keys


class Interpreter:
    """Makes Textual's messages of what a terminal sends."""

    def __init__(self) -> None:
        self._mouse = XTermParser()

    def messages(self, token: Token) -> Iterator[Message]:
        """The messages of a token: none for what means nothing."""
        match token:
            case Pasted(text):
                yield events.Paste(text)
            case Typed(text):
                for character in text:
                    names = legacy_keys(character)
                    keys = [KeyPress(name, character) for name in names]
                    yield from _key_events(keys or [typed_key(character)])
            case Sequence(text):
                yield from self._of_sequence(text)

    def _of_sequence(self, text: str) -> Iterator[Message]:
        keys = key_presses(text)
        if keys is None and (names := legacy_keys(text)):
            keys = [KeyPress(name, text if text == ESCAPE else None) for name in names]
        if keys is None and len(text) == 2:
            keys = [alt_key(text[1])]
        if keys is not None:
            yield from _key_events(keys)
        elif text in _FOCUS:
            yield _FOCUS[text]()
        elif _MOUSE.fullmatch(text):
            event = self._mouse.parse_mouse_code(text)
            if event is not None:
                yield event
        elif mode := _MODE.fullmatch(text):
            yield from _mode(mode[1], int(mode[2]))
        elif size := _SIZE.fullmatch(text):
            height, width, pixel_height, pixel_width = map(int, size.groups())
            cells, pixels = (width, height), (pixel_width, pixel_height)
            resize = events.Resize.from_dimensions(cells, pixels)
            self._mouse.terminal_size, self._mouse.terminal_pixel_size = cells, pixels
            self._mouse.mouse_pixels = True
            yield resize
        elif colour := answered_colour(text):
            yield BackgroundAnswered(colour)


def _key_events(keys: list[KeyPress]) -> Iterator[Message]:
    for key in keys:
        yield TypedKey(key.key, key.character)


def _mode(number: str, setting: int) -> Iterator[Message]:
    """What the terminal answers about one of its modes."""
    if number == "2026" and setting:
        yield messages.TerminalSupportsSynchronizedOutput()
    elif number == "2048" and constants.SMOOTH_SCROLL and not IS_ITERM:
        yield messages.InBandWindowResize.from_setting_parameter(setting)
