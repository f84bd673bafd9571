"""The conversation on the screen: drawn, scrolled, and acted on with the mouse and the keys."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar

from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer

from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.parts import Part
from qwen35_chat.widgets.laid_out import LaidOutView
from qwen35_chat.widgets.marking import LEAVE, Marking
from qwen35_chat.widgets.selecting import AGAIN_SECONDS, Selecting
from qwen35_chat.widgets.strips import StripCache

OPENS_TEXT = ("mark_edit", "mark_branch")  # commands after which keys are for the composer


class TranscriptView(LaidOutView, can_focus=True, inherit_bindings=False):
    """Entries, oldest first. It follows the end unless the user has scrolled up.

    A click acts on what is under it, and leaves the focus where it is. While the view has the
    focus, keys act on the marked message.

    Args:
        clock: seconds.

    Attributes:
        marking: the message that is marked, and its keys.
        selecting: the text that is selected.
        opening: a key has come that opens a text, and those behind it are for that.
    """

    ALLOW_SELECT = False  # a selection of Textual's has no place in a text
    FOCUS_ON_CLICK = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "transcript--muted",
        "transcript--error",
        "transcript--heading",
        "transcript--user",
        "transcript--user-bar",
        "transcript--reply",
        "transcript--reply-bar",
        "transcript--reply-name",
        "transcript--code",
        "transcript--inline-code",
        "transcript--code-head",
        "transcript--thinking",
        "transcript--thinking-head",
        "transcript--mark",
        "transcript--link",
    }

    class Clicked(Message):
        """Something in an entry was clicked.

        `name` is "code", "version" or "link"; `argument` is the code, the step to the other
        version, or the address.
        """

        def __init__(self, name: str, argument: str | int, entry: TranscriptEntry | None = None):
            super().__init__()
            self.name = name
            self.argument = argument
            self.entry = entry

    class Command(Message):
        """Run this command on the marked message."""

        def __init__(self, name: str):
            super().__init__()
            self.name = name

    class Selected(Message):
        """The mouse has selected this text."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    class Left(Message):
        """A click has left no message marked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self.selecting = Selecting(self, self.rows)
        self.marking = Marking(self, self.rows)
        self._pressed: tuple[TranscriptEntry, Part] | None = None  # what the button went down on
        self._link: Timer | None = None  # that opens in a moment
        self._strips = StripCache(self)
        self.opening = False
        self._held: list[events.Key] | None = None  # since that key was handled

    # Entries

    @property
    def entries(self) -> Sequence[TranscriptEntry]:
        """All of them. Call `lay_out` after a change of one."""
        return self.rows.entries

    def show(self, entries: Iterable[TranscriptEntry]) -> None:
        """Replace all entries, and go to the end."""
        self.rows.show(entries)
        self.forget_awaited()
        self.marking.keep_shown()
        self.selecting.keep_shown()
        self._strips.clear()
        self.follow()

    def add(self, entry: TranscriptEntry) -> None:
        self.rows.add(entry)
        self.lay_out()

    def drop(self, entry: TranscriptEntry) -> None:
        if entry in self.entries:
            self.rows.drop(entry)
            self.marking.keep_shown()
            self.selecting.keep_shown()
            self.lay_out()

    def entry(self, key: int) -> TranscriptEntry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    # Places

    def scrolled(self) -> None:
        self.selecting.scrolled()

    def reveal(self, entry: TranscriptEntry, pattern: re.Pattern[str]) -> None:
        """Mark an entry, and go to the first match of a pattern in it, which is selected."""
        if not self.scrollable_content_region.area:
            self.once_laid_out(partial(self.reveal, entry, pattern))
            return
        self.lay_out()  # the view may have got its size just now
        at = self.entries.index(entry)
        self.rows.lay_out_whole(at)
        self.marking.entry(entry)
        line = self.selecting.find(at, pattern) or 0
        top = self.rows.bounds(at)[0] + line - self.scrollable_content_region.height // 3
        self.rows.following = False
        self.lay_out()
        self.scroll_to(y=max(top, 0), animate=False, immediate=True)

    # Drawing

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines in view.

        The widget has neither border nor padding, so this leaves out the pass of Textual that adds
        these, which takes longer than the lines themselves.
        """
        width = self.scrollable_content_region.width
        strips = [self._drawn(self.top + y, width) for y in crop.line_range]
        if (keys := self.marking.keys_line()) is not None and keys[0] in crop.line_range:
            strips[keys[0] - crop.y] = self._strips.strip(
                keys[1], indent=1, columns=self.rows.columns, width=width, marked=True
            )
        _, background = self.background_colors
        for line_filter in self.get_line_filters():
            strips = [strip.apply_filter(line_filter, background) for strip in strips]
        hover = self.hover_style
        if hover.link_id and "@click" in hover.meta:
            strips = [strip.style_links(hover.link_id, self.link_style_hover) for strip in strips]
        if crop.column_span != (0, self.size.width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def _drawn(self, y: int, width: int) -> Strip:
        """Line `y` of the conversation."""
        found = self.rows.line(y)
        if found is None:
            return Strip.blank(width, self.visual_style.rich_style)
        entry, line = found
        selection = self.selecting.selection
        return self._strips.strip(
            line,
            indent=entry.indent,
            columns=self.rows.columns,
            width=width,
            marked=entry is self.marking.marked,
            selected=selection.within(entry.key, line) if selection else None,
        )

    # The mouse

    def on_mouse_down(self, event: events.MouseDown) -> None:
        if event.button == 1:
            self.capture_mouse()
            self._pressed = self.rows.part_at(self.top + event.y)
            self.selecting.press(event.x, event.y, self._clock())
            if self.selecting.several and self._link is not None:
                self._link.stop()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if event.button == 1:
            self.selecting.move(event.x, event.y)
        else:  # it was released where this view was not told
            self._release()

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.selecting.move(event.x, event.y)
        self._release()

    def on_mouse_release(self) -> None:
        self._release()

    def _release(self) -> None:
        if not self.selecting.pressed:
            return
        self.capture_mouse(False)
        if text := self.selecting.release():
            self.marking.unmark()
            self.post_message(self.Selected(text))
        self.lay_out()

    def on_click(self, event: events.Click) -> None:
        if self.selecting.acted:
            event.prevent_default()  # the press was for the selection
        elif "@click" not in event.style.meta and event.button == 1:
            found = self.rows.line(self.top + event.y)
            if not self.marking.click(found[0] if found is not None else None):
                self.post_message(self.Left())

    def action_copy_code(self, number: int) -> None:
        if self._pressed is not None:
            entry, part = self._pressed
            if number < len(part.codes):
                self.post_message(self.Clicked("code", part.codes[number].code, entry))

    def action_fold(self, key: int) -> None:
        if entry := self.entry(key):
            self.toggle(entry)

    def action_version(self, key: int, step: int) -> None:
        self.post_message(self.Clicked("version", step, self.entry(key)))

    def action_open_link(self, href: str) -> None:
        """Open an address, unless the click turns out to be the first of two, on a word."""
        self._link = self.set_timer(
            AGAIN_SECONDS, lambda: self.post_message(self.Clicked("link", href))
        )

    def action_command(self, name: str) -> None:
        self.post_message(self.Command(name))

    # The marked message, and the keys while this has the focus

    @property
    def marked(self) -> TranscriptEntry | None:
        return self.marking.marked

    def mark(self, step: int) -> None:
        """Mark the message before (-1) or after (1)."""
        self.marking.step(step)

    def command(self, key: str, *, prints: bool) -> str | None:
        """The command of a key; None of one that prints while no marked message can be seen."""
        return None if prints and not self.marking.in_view else self.marking.commands.get(key)

    def release_keys(self) -> None:
        """Pass the keys on that were typed until a text was open, or could not be opened."""
        held, self._held = self._held or [], None
        self.opening = False
        for event in held:
            self._pass_on(event)

    def _pass_on(self, event: events.Key) -> None:
        if (focused := self.screen.focused) is not None:
            focused.post_message(events.Key(event.key, event.character))

    def on_key(self, event: events.Key) -> None:
        if self._held is not None or self.screen.focused is not self:
            event.stop()
            event.prevent_default()
            if self._held is not None:
                self._held.append(event)
            else:  # typed before the focus went on
                self._pass_on(event)
            return
        name = self.command(event.key, prints=event.is_printable)
        if name is None:
            self.opening = self.opening and not event.is_printable
            return
        event.stop()
        event.prevent_default()
        if name == LEAVE and self.selecting.clear() and not self.marking.in_view:
            return
        if name in OPENS_TEXT:
            self._held, self.opening = [], True
        self.post_message(self.Command(name))

    def on_focus(self) -> None:
        self.marking.enter()

    def on_blur(self) -> None:
        self.marking.unmark()
