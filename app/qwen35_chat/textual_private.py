"""What the app uses of Textual beyond its public interface.

Its inputs are in `textual_editing`, its driver in `terminal_driver`.

The tests of this module name the member that a new version of Textual has changed.
"""

from typing import Any

from rich.text import Text
from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._keyboard_protocol import FUNCTIONAL_KEYS
from textual.app import App
from textual.binding import BindingsMap
from textual.css.query import NoMatches
from textual.dom import DOMNode
from textual.geometry import Size
from textual.keys import _character_to_key
from textual.scroll_view import ScrollView
from textual.worker import WorkerFailed

from qwen35_chat.widgets.scroll_bar import SteadyScrollBar
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


def set_virtual_size(view: "SteadyScrollView", size: Size) -> None:
    """Give a scroll view this virtual size without laying out the screen again.

    Assigning the attribute would do so with every line of a reply that streams in. With a
    scrollbar that is always there, nothing else depends on it. Draw that once the view is at its
    new place: until then, its thumb is at a place where it will not stay.
    """
    view.set_reactive(ScrollView.virtual_size, size)  # pyright: ignore[reportArgumentType]
    bar = view.vertical_scrollbar
    bar.set_reactive(SteadyScrollBar.window_virtual_size, size.height)
    bar.set_reactive(SteadyScrollBar.window_size, view.scrollable_content_region.height)


class SteadyScrollView(ScrollView):
    """A scroll view whose vertical scrollbar is drawn only when it has to change."""

    @property
    def vertical_scrollbar(self) -> SteadyScrollBar:
        if not isinstance(self._vertical_scrollbar, SteadyScrollBar):
            thickness = self.scrollbar_size_vertical
            self._vertical_scrollbar = bar = SteadyScrollBar(name="vertical", thickness=thickness)
            bar.display = False
            self.app._start_widget(self, bar)
        return self._vertical_scrollbar


def functional_key(code: str) -> str:
    """The name of a key that types nothing, by its number and its end: "13u"; "" if it has none."""
    return FUNCTIONAL_KEYS.get(code, "")


def legacy_keys(sequence: str) -> tuple[str, ...]:
    """The names of the keys that send a character or an escape sequence; none if it is unknown."""
    found = ANSI_SEQUENCES_KEYS.get(sequence)
    return tuple(key.value for key in found) if isinstance(found, tuple) else ()


def key_name(character: str) -> str:
    """The name of the key that types a character: "/" -> "slash"."""
    return _character_to_key(character)


class PrivateApp(App[None]):
    """An app that ends with one line after a fault of its own.

    Textual prints a traceback with the values of all variables, such as messages and drafts.
    """

    def begin_with_theme(self, name: str) -> None:
        """Use a theme from the first frame on.

        Before the app runs, assigning the attribute has all style sheets parsed twice.
        """
        self.set_reactive(App.theme, name)
        theme = self.current_theme
        kinds = {"-dark-mode": theme.dark, "-light-mode": not theme.dark}
        self.update_classes({f"-theme-{theme.name}": True, **kinds}, update=False)
        self._refresh_truecolor_filter(self.ansi_theme)
        self.stylesheet.set_variables(self.get_css_variables())

    def crash_line(self, error: BaseException) -> str:
        """What is printed about a fault."""
        raise NotImplementedError

    @property
    def return_code(self) -> int | None:
        # Also where a key quits at the same time, or has just done so.
        return super().return_code if self._exception is None else exit_codes.CRASHED

    def before_key(self, event: events.Key) -> None:
        """Called before a key goes to what has the focus, which may be changed here."""

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            self.before_key(event)
        await super().on_event(event)

    def _handle_exception(self, error: Exception) -> None:
        if self._exit and isinstance(error, NoMatches):  # widgets are taken away already
            self._close_messages_no_wait()
            return
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
            cause = error.error if isinstance(error, WorkerFailed) else error
            self._exit_renderables = [Text(visible_line(self.crash_line(cause)))]
        self._close_messages_no_wait()
