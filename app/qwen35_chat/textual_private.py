"""What the app uses of Textual beyond its public interface; for its inputs see `textual_editing`.

The tests of this module name the member that a new version of Textual has changed.
"""

import os
import selectors
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from itertools import groupby
from time import monotonic
from typing import Any

from rich.text import Text
from textual import events
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.binding import BindingsMap
from textual.dom import DOMNode
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.worker import WorkerFailed

from qwen35_chat.background import ANSWER_SECONDS, DEAF, QUERY, AnswerFilter
from qwen35_mlx import exit_codes
from qwen35_mlx.terminal import visible_line


def bindings_of(node: DOMNode) -> BindingsMap:
    """The key bindings of a widget, a screen or the app, which may be changed."""
    return node._bindings


def set_bindings(node: DOMNode, bindings: BindingsMap) -> None:
    """Replace the key bindings of a widget, a screen or the app."""
    node._bindings = bindings


def write_to_terminal(app: App[Any], sequence: str) -> None:
    """Write an escape sequence to the terminal, if the app has one."""
    if app._driver is not None:
        app._driver.write(sequence)


def set_virtual_size(view: ScrollView, size: Size) -> None:
    """Give a scroll view this virtual size without laying out the screen again.

    Assigning the attribute would do so with every line of a reply that streams in. With a
    scrollbar that is always there, nothing else depends on it.
    """
    view.set_reactive(ScrollView.virtual_size, size)  # pyright: ignore[reportArgumentType]
    bar = view.vertical_scrollbar
    bar.window_virtual_size = size.height
    bar.window_size = view.scrollable_content_region.height


class BackgroundAnswered(Message):
    """The terminal has told its background colour.

    Attributes:
        colour: as terminals write it: rgb:1515/1717/1c1c.
    """

    def __init__(self, colour: str):
        super().__init__()
        self.colour = colour


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


class AnsweringDriver(LinuxDriver):
    """A driver that requests the terminal's background colour, also after a suspension.

    Textual would hand the answer on as typed text. So the input is read here, and the answer is
    taken out of it.
    """

    _answers = AnswerFilter()
    _requested = 0.0

    def start_application_mode(self) -> None:
        self._answers = AnswerFilter()
        asks = os.environ.get("TERM", "") not in DEAF
        self._answers.expected, self._requested = asks, monotonic()
        super().start_application_mode()
        if asks:
            self.write(QUERY)
            self.flush()

    def run_input_thread(self) -> None:
        parser = XTermParser()
        decode = getincrementaldecoder("utf-8")("replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                text = ""
                if selector.select(0.03 if self._answers.holds else 0.1):
                    read = os.read(self.fileno, 4096)
                    text = self._answers.feed(decode(read))
                    if not read:  # the terminal is gone
                        self.exit_event.wait(0.1)
                else:
                    text = self._answers.pause()
                if text:
                    for message in with_texts(parser.feed(text)):
                        self.process_message(message)
                for message in parser.tick():
                    self.process_message(message)
                if colour := self._answers.take_colour():
                    self.process_message(BackgroundAnswered(colour))
                if monotonic() > self._requested + ANSWER_SECONDS:
                    self._answers.expected = False
            if selector.select(0.1):  # what still arrives is not for the next program
                os.read(self.fileno, 4096)


class PrivateApp(App[None]):
    """An app that ends with one line after a fault of its own, and reads as `AnsweringDriver` does.

    Textual prints a traceback with the values of all variables, such as messages and drafts.
    """

    def get_driver_class(self) -> type[Driver]:
        usual = super().get_driver_class()
        return AnsweringDriver if usual is LinuxDriver else usual

    def crash_line(self, error: BaseException) -> str:
        """What is printed about a fault."""
        raise NotImplementedError

    def before_key(self, event: events.Key) -> None:
        """Called before a key goes to what has the focus, which may be changed here."""

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            self.before_key(event)
        await super().on_event(event)

    def _handle_exception(self, error: Exception) -> None:
        self._return_code = exit_codes.CRASHED
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
            cause = error.error if isinstance(error, WorkerFailed) else error
            self._exit_renderables = [Text(visible_line(self.crash_line(cause)))]
        self._close_messages_no_wait()
