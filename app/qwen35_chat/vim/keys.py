"""The modes of vim: each key becomes a change of the text, of the cursor, or of both."""

from dataclasses import dataclass, replace
from typing import Literal

from qwen35_chat.vim.command import VimCommand, parse
from qwen35_chat.vim.edits import Edit, Step, UnitText
from qwen35_chat.vim.motions import (
    down,
    first_sign,
    line_end,
    line_start,
    on_unit,
    units_of,
    word_around,
)
from qwen35_chat.vim.ranges import Find, Taken, lines_between, taken, target

Mode = Literal["insert", "normal", "visual", "lines"]
LABELS = {"insert": "INSERT", "normal": "NORMAL", "visual": "VISUAL", "lines": "V-LINE"}
# Keys without a sign that mean the same as one.
NAMED = {"left": "h", "right": "l", "up": "k", "down": "j", "home": "0", "end": "$"}
# Commands that are others by another name.
SHORT = {
    "x": ("d", "l"), "X": ("d", "h"), "s": ("c", "l"), "S": ("c", "c"),
    "D": ("d", "$"), "C": ("c", "$"), "Y": ("y", "y"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Insertion:
    """What is being typed in insert mode after a command, to repeat both."""

    command: VimCommand
    text: str  # before
    at: int


class Vim:
    """The state between keys.

    Attributes:
        mode: it begins with "insert", in which all keys but Esc are as usual.
    """

    def __init__(self) -> None:
        self.mode: Mode = "insert"
        self._keys: list[str] = []  # of a command that is not complete
        self._text = UnitText("")
        self._register = ""
        self._register_lines = False
        self._find: Find | None = None
        self._insertion: _Insertion | None = None
        self._last: tuple[VimCommand, str] | None = None  # and what was typed after it
        self._anchor = self._cursor = 0  # of visual mode, in units
        self._column: int | None = None  # to which j and k go back

    @property
    def label(self) -> str:
        """The mode, and the keys of a command that is not complete."""
        return " ".join([LABELS[self.mode], "".join(self._keys)]).rstrip()

    @property
    def waits(self) -> bool:
        """Whether a command is not complete."""
        return bool(self._keys)

    @property
    def selects(self) -> bool:
        return self.mode in ("visual", "lines")

    def leave(self, mode: Mode) -> None:
        """Go to insert or normal mode; what was begun is forgotten."""
        self.mode = mode
        self._keys = []
        self._insertion = None

    def press(self, key: str, text: str, cursor: int) -> Step | None:
        """Handle a key; None if it means what it does without vim.

        Args:
            key: the sign, or Textual's name of a key without one.
            text: as it is.
            cursor: the index of a character in `text`.
        """
        if self.mode == "insert":
            return self._end_insertion(text, cursor) if key == "escape" else None
        if key == "escape":
            return self._escape(text, cursor)
        if key in NAMED and (self.selects or self.waits):
            key = NAMED[key]
        key = {"backspace": "h", " ": "l"}.get(key, key) if not self._takes_sign() else key
        if len(key) > 1 and key != "ctrl+r":
            self._keys = []
            return None
        self._keys.append(key)
        command = parse(self._keys, visual=self.selects)
        if command is True:
            return self._still(text, cursor)
        self._keys = []
        if command is False:
            return self._still(text, cursor)
        self._text = UnitText(text)
        at = self._cursor if self.selects else on_unit(self._text.units, self._text.unit(cursor))
        if command.name not in ("j", "k"):
            self._column = None
        step = self._run_visual(command, at) if self.selects else self._run(command, at)
        return step if step is not None else self._still(text, cursor)

    def _takes_sign(self) -> bool:
        return bool(self._keys) and self._keys[-1] in ("f", "F", "t", "T", "r")

    def _still(self, text: str, cursor: int) -> Step:
        """Nothing changes on the text."""
        if not self.selects:
            return Step(cursor)
        self._text = UnitText(text)
        return self._shown()

    def _escape(self, text: str, cursor: int) -> Step | None:
        """Leave visual mode or drop what was begun; None where there is neither."""
        if not self.waits and not self.selects:
            return None
        self._text = UnitText(text)
        at = self._cursor if self.selects else self._text.unit(cursor)
        self.leave("normal")
        return self._text.to(on_unit(self._text.units, at))

    # Normal mode

    def _run(self, command: VimCommand, at: int) -> Step | None:
        if command.name == ".":
            return self._repeat(command.count, at)
        if command.name in ("u", "ctrl+r"):
            times = command.count or 1
            return Step(None, undo=times if command.name == "u" else -times)
        if command.name in ("v", "V"):
            self.mode = "visual" if command.name == "v" else "lines"
            self._anchor = self._cursor = at
            return self._shown()
        return self._change(command, at, None)

    def _repeat(self, count: int | None, at: int) -> Step | None:
        if self._last is None:
            return None
        command, typed = self._last
        if count is not None:
            command = replace(command, count=count)
        return self._change(command, at, typed)

    def _change(self, command: VimCommand, at: int, typed: str | None) -> Step | None:
        """Run a command that moves or changes.

        Args:
            typed: what was typed after the command that is repeated; None if it is a new one.
        """
        name, motion = SHORT.get(command.name, (command.name, command.motion))
        if name in ("d", "c", "y"):
            what = self._what(name, motion, command, at)
            return None if what is None else self._operate(name, what, command, typed)
        if name in "iaIAoO":
            return self._begin(command, self._insertion_edit(name, at), typed)
        if name in "pP":
            put = self._put(name, at, command.count or 1)
            return None if put is None else self._noted(command, put)
        if name == "r":
            end = at + (command.count or 1)
            if end > line_end(self._text.units, at):
                return None
            edit = Edit(at, end, command.sign * (end - at))
            return self._noted(command, self._text.edited(edit, end - 1))
        return self._move(command, at)

    def _what(self, name: str, motion: str, command: VimCommand, at: int) -> Taken | None:
        sought = self._sought(motion, command.sign)
        return taken(self._text.units, at, name, motion, command.count, sought)

    def _sought(self, motion: str, sign: str) -> Find | None:
        if motion and motion in "fFtT":
            self._find = Find(motion, sign)
        return self._find

    def _move(self, command: VimCommand, at: int) -> Step | None:
        place = self._place(command, at)
        return None if place is None else self._text.to(place)

    def _place(self, command: VimCommand, at: int) -> int | None:
        """Where a motion puts the cursor."""
        name, units = command.name, self._text.units
        if name in ("j", "k"):
            column = at - line_start(units, at) if self._column is None else self._column
            times = (command.count or 1) * (1 if name == "j" else -1)
            place = down(units, at, times, column)
            self._column = column
            return place
        goal = target(units, at, name, command.count, self._sought(name, command.sign))
        return None if goal is None else on_unit(units, goal.at)

    def _operate(self, name: str, what: Taken, command: VimCommand, typed: str | None) -> Step:
        units = self._text.units
        if what.lines or what.end > what.start:
            self._register = "".join(units[what.start : what.end])
            self._register_lines = what.lines
        if name == "y":
            return self._text.to(what.cursor)
        if name == "c":
            return self._begin(command, Edit(what.start, what.end, ""), typed)
        if not what.lines:
            return self._noted(
                command, self._text.edited(Edit(what.start, what.end, ""), what.start)
            )
        # With a line end: the one behind the lines, or else the one before them.
        more = what.end < len(units)
        edit = Edit(what.start - (not more and what.start > 0), what.end + more, "")
        return self._noted(command, self._text.edited(edit, edit.start, line=True))

    def _insertion_edit(self, name: str, at: int) -> Edit:
        """Where i, a, I, A, o and O begin to type."""
        units = self._text.units
        start, end = line_start(units, at), line_end(units, at)
        match name:
            case "a":
                place = min(at + 1, end)
            case "I":
                place = first_sign(units, at)
            case "A" | "o":
                place = end
            case "O":
                place = start
            case _:
                place = at
        return Edit(place, place, "\n" if name in "oO" else "")

    def _begin(self, command: VimCommand, edit: Edit, typed: str | None) -> Step:
        """Make the edit that begins an insertion; a repeated one is complete by that."""
        before_break = command.name == "O"
        if typed is not None:
            text = f"{typed}\n" if before_break else f"{edit.text}{typed}"
            size = len(units_of(typed)) + (0 if before_break else len(edit.text))
            self._last = command, typed
            return self._text.edited(replace(edit, text=text), edit.start + max(size - 1, 0))
        self.mode = "insert"
        cursor = self._text.character(edit.start) + (0 if before_break else len(edit.text))
        text = self._text.after(edit)
        self._insertion = _Insertion(command, text, cursor)
        shown = self._text.in_characters(edit) if edit.text or edit.end > edit.start else None
        return Step(cursor, shown)

    def _end_insertion(self, text: str, cursor: int) -> Step:
        begun = self._insertion
        self.leave("normal")
        if begun is not None:
            head, tail = begun.text[: begun.at], begun.text[begun.at :]
            grown = len(text) - len(begun.text)
            whole = grown >= 0 and text.startswith(head) and text.endswith(tail)
            self._last = (begun.command, text[begun.at : begun.at + grown]) if whole else None
        self._text = UnitText(text)
        at = self._text.unit(cursor)
        return self._text.to(max(at - 1, line_start(self._text.units, at)))

    def _put(self, name: str, at: int, count: int) -> Step | None:
        if not self._register and not self._register_lines:
            return None
        units = self._text.units
        if not self._register_lines:
            place = min(at + 1, line_end(units, at)) if name == "p" else at
            text = self._register * count
            last = 0 if "\n" in text else len(units_of(text)) - 1
            return self._text.edited(Edit(place, place, text), place + last)
        lines = "\n".join([self._register] * count)
        if name == "p":
            end = line_end(units, at)
            return self._text.edited(Edit(end, end, f"\n{lines}"), end + 1, line=True)
        start = line_start(units, at)
        return self._text.edited(Edit(start, start, f"{lines}\n"), start, line=True)

    # Visual mode

    def _run_visual(self, command: VimCommand, at: int) -> Step | None:
        name = command.name
        if name in ("v", "V"):
            mode: Mode = "visual" if name == "v" else "lines"
            if mode == self.mode:
                self.leave("normal")
                return self._text.to(at)
            self.mode = mode
        elif name == "o":
            self._anchor, self._cursor = self._cursor, self._anchor
        elif name in ("d", "x", "c", "s", "y"):
            return self._operate_visual({"x": "d", "s": "c"}.get(name, name))
        elif name in ("iw", "aw"):
            self._anchor, end = word_around(self._text.units, at, spaces=name == "aw")
            self._cursor = max(end - 1, self._anchor)
        elif name == "ctrl+r" or (place := self._place(command, at)) is None:
            return None
        else:
            self._cursor = place
        return self._shown()

    def _operate_visual(self, operator: str) -> Step:
        start, end = sorted((self._anchor, self._cursor))
        lines = self.mode == "lines"
        self.leave("normal")
        if lines:
            what = lines_between(self._text.units, line_start(self._text.units, start), end)
        else:
            what = Taken(start, min(end + 1, len(self._text.units)), start)
        # Repeated, it takes as many units or lines from the cursor on.
        number = (
            self._text.units[what.start : what.end].count("\n") + 1 if lines else end - start + 1
        )
        command = VimCommand(operator, operator if lines else "l", "", number)
        return self._operate(operator, what, command, None)

    def _shown(self) -> Step:
        """The selection: both ends are in it."""
        start, end = sorted((self._anchor, self._cursor))
        if self.mode == "lines":
            start, end = line_start(self._text.units, start), line_end(self._text.units, end)
        else:
            end = min(end + 1, len(self._text.units))
        ends = self._text.character(start), self._text.character(end)
        if self._cursor < self._anchor:
            ends = ends[1], ends[0]
        return Step(ends[1], selection=ends)

    def _noted(self, command: VimCommand, step: Step) -> Step:
        """The step of a command that `.` repeats."""
        self._last = command, ""
        return step
