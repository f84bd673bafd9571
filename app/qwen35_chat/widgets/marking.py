"""The marked message of the conversation, which commands act on."""

from collections.abc import Mapping

from textual.scroll_view import ScrollView

from qwen35_chat.commands import keymap
from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.layout import Layout
from qwen35_chat.drawing.line import Line
from qwen35_chat.widgets.message_keys import message_keys

LEAVE = "mark_leave"


class Marking:
    """Which message is marked in a view.

    A click marks a message where it is. Its keys act once the view has the focus; until then what
    is typed goes to the composer.

    Attributes:
        marked: None if no message is.
        commands: each key on a message, and the name of its command.
    """

    def __init__(self, view: ScrollView, layout: Layout):
        self.marked: TranscriptEntry | None = None
        self.commands: Mapping[str, str] = {}
        self._remapped: Mapping[str, str] = {}
        self._view = view
        self._layout = layout

    def use_keys(self, remapped: Mapping[str, str]) -> None:
        """Use these keys from the settings."""
        self._remapped = remapped
        found = keymap("messages", remapped)
        self.commands = {key: command.name for key, command in found.items()}

    # Marking

    def step(self, step: int) -> None:
        """Mark the message before (-1) or after (1), or the last one in view if none is marked."""
        marks = self._marks()
        if self.marked not in marks:
            self.enter()
        else:
            to = min(max(marks.index(self.marked) + step, 0), len(marks) - 1)
            self.marked = marks[to]
        self._bring_into_view()

    def message(self, message: int | None) -> None:
        """Mark the message with this id, or else the last one, and go there."""
        marks = self._marks()
        last = marks[-1] if marks else None
        self.marked = next((entry for entry in marks if entry.message == message), last)
        self._bring_into_view()

    def entry(self, entry: TranscriptEntry) -> None:
        """Mark an entry."""
        self.marked = entry
        self._view.refresh()

    def enter(self) -> None:
        """Mark the last message in view, unless one is marked there."""
        marks = self._marks()
        if not marks or (self.marked in marks and self.in_view):
            return
        bottom = self._top + self._height
        above = [e for e in marks if self._layout.bounds(self._layout.entries.index(e))[0] < bottom]
        self.marked = above[-1] if above else marks[0]
        self._view.refresh()

    def click(self, entry: TranscriptEntry | None) -> bool:
        """Mark the message that was clicked, or none if it was marked; whether one is now."""
        self.marked = entry if entry and entry.author and entry is not self.marked else None
        self._view.refresh()
        return self.marked is not None

    def unmark(self) -> None:
        if self.marked is not None:
            self.marked = None
            self._view.refresh()

    def keep_shown(self) -> None:
        """Mark none if the marked entry is not there any more."""
        if self.marked not in self._layout.entries:
            self.marked = None

    # Where it is

    @property
    def in_view(self) -> bool:
        """Whether a message is marked that can be seen."""
        return self._visible() is not None

    def keys_line(self) -> tuple[int, Line] | None:
        """What can be done with the marked message, and the line of the view to draw that in."""
        lines = self._visible()
        if lines is None or self.marked is None:
            return None
        focused = self._view.has_focus
        names = [*self.marked.commands, LEAVE] if focused else self.marked.commands
        width = self._layout.columns - 1
        line = message_keys(names, self._remapped, width, keys=focused)
        return min(lines[1] - self._top, self._height) - 1, line

    def _visible(self) -> tuple[int, int] | None:
        """The first line of the marked message, and the one after its last; None if out of view."""
        if self.marked is None:
            return None
        start, end = self._layout.bounds(self._layout.entries.index(self.marked))
        return (start, end) if start < self._top + self._height and end > self._top else None

    def _bring_into_view(self) -> None:
        height = self._height
        if self.marked is None or not height:
            return
        at = self._layout.entries.index(self.marked)
        self._layout.lay_out_entry(at, height)
        start, end = self._layout.bounds(at)
        if start < self._view.scroll_y or end - start > height:
            self._view.scroll_to(y=start, animate=False)
        elif end > self._view.scroll_y + height:
            self._view.scroll_to(y=end - height, animate=False)
        self._view.refresh()

    def _marks(self) -> list[TranscriptEntry]:
        return [entry for entry in self._layout.entries if entry.author]

    @property
    def _top(self) -> int:
        return round(self._view.scroll_y)

    @property
    def _height(self) -> int:
        return self._view.scrollable_content_region.height
