"""Textual's inputs by characters as a reader sees them, and by words of any script.

Textual moves, deletes, clicks and breaks lines by code points, and takes a run of letters for a
word. Like `textual_private`, this module uses more of it than its public interface.
"""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.document._document import Document, Location
from textual.document._document_navigator import DocumentNavigator
from textual.document._wrapped_document import WrappedDocument
from textual.expand_tabs import expand_tabs_inline, get_tab_widths
from textual.geometry import Region
from textual.strip import Strip
from textual.widgets import Input, TextArea, text_area
from textual.widgets import input as text_input

from qwen35_chat.drawing.line_breaks import break_offsets
from qwen35_chat.graphemes import boundary_after, boundary_before, cells_before, graphemes, starts
from qwen35_chat.vim.edits import UnitText
from qwen35_chat.vim.motions import word_back, word_end
from qwen35_mlx.terminal import one_cell

CURSOR = 1  # cell beside the text, which a space at the end of a line may take


def word_left(text: str, at: int) -> int:
    """Where the word before a place of a line begins."""
    units = UnitText(text)
    return units.character(word_back(units.units, units.unit(at)))


def word_right(text: str, at: int) -> int:
    """Where the word at a place of a line, or the next one, ends."""
    units = UnitText(text)
    end = word_end(units.units, units.unit(at) - 1) + 1
    return units.character(min(end, len(units.units)))


class LiteralInput(Input):
    """An input whose control characters are shown, in one cell each."""

    @property
    def _value(self) -> Text:
        return Text(one_cell(self.value), no_wrap=True, overflow="ignore", end="")

    def _position_to_cell(self, position: int) -> int:
        return cell_len(expand_tabs_inline(one_cell(self.value)[:position], 4))

    def _cell_offset_to_index(self, offset: int) -> int:
        clusters = graphemes(one_cell(self.value))
        at = bisect_right(cells_before(clusters), offset + self.scroll_offset.x) - 1
        return starts(clusters)[max(at, 0)]

    def validate_selection(self, selection: text_input.Selection) -> text_input.Selection:
        places = super().validate_selection(selection)
        return text_input.Selection(*(boundary_after(self.value, place) for place in places))

    @property
    def _left(self) -> int:
        return boundary_before(self.value, self.cursor_position - 1)

    @property
    def _right(self) -> int:
        return boundary_after(self.value, self.cursor_position + 1)

    def _go(self, place: int, select: bool) -> None:
        start = self.selection.start if select else place
        self.selection = text_input.Selection(start, place)

    def _delete(self, place: int) -> None:
        """Delete what is between the cursor and a place, or else what is selected."""
        if self.selection.is_empty:
            self.delete(place, self.cursor_position)
        else:
            self.delete_selection()

    def action_cursor_left(self, select: bool = False) -> None:
        empty = select or self.selection.is_empty
        self._go(self._left if empty else min(self.selection), select)

    def action_cursor_right(self, select: bool = False) -> None:
        empty = select or self.selection.is_empty
        self._go(self._right if empty else max(self.selection), select)

    def action_cursor_left_word(self, select: bool = False) -> None:
        self._go(word_left(self.value, self.cursor_position), select)

    def action_cursor_right_word(self, select: bool = False) -> None:
        self._go(word_right(self.value, self.cursor_position), select)

    def action_delete_left(self) -> None:
        self._delete(self._left)

    def action_delete_right(self) -> None:
        self._delete(self._right)

    def action_delete_left_word(self) -> None:
        self._delete(word_left(self.value, self.cursor_position))

    def action_delete_right_word(self) -> None:
        self._delete(word_right(self.value, self.cursor_position))


class WrappedText(WrappedDocument):
    """A document whose lines are broken as the transcript's are.

    All measures are those of what is shown, where a control character has a cell.
    """

    _known: Mapping[str, tuple[list[int], list[int]]] = MappingProxyType({})

    def wrap(self, width: int, tab_width: int | None = None) -> None:
        tab_width = tab_width or self._tab_width
        known = self._known if (width, tab_width) == (self._width, self._tab_width) else {}
        self._width, self._tab_width = width, tab_width
        self._known = {
            line: known.get(line) or _wrapped(one_cell(line), width, tab_width)
            for line in self.document.lines
        }
        lines = [self._known[line] for line in self.document.lines]
        self._wrap_offsets = [list(offsets) for offsets, _ in lines]
        self._tab_width_cache = [list(tabs) for _, tabs in lines]
        self._offset_to_line_info = [
            (line, section)
            for line, (offsets, _) in enumerate(lines)
            for section in range(len(offsets) + 1)
        ]
        self._line_index_to_offsets = [[] for _ in lines]
        for y, (line, _) in enumerate(self._offset_to_line_info):
            self._line_index_to_offsets[line].append(y)

    def wrap_range(self, start: Location, old_end: Location, new_end: Location) -> None:
        self.wrap(self._width)

    def get_sections(self, line_index: int) -> list[str]:
        return [one_cell(section) for section in super().get_sections(line_index)]

    def get_target_document_column(self, line_index: int, x_offset: int, y_offset: int) -> int:
        line = one_cell(self.document[line_index])
        sections = list(pairwise([0, *self._wrap_offsets[line_index], len(line)]))
        start, end = sections[y_offset]
        clusters = graphemes(line[start:end])
        cells = cells_before(clusters)
        tabs = iter(self._tab_width_cache[line_index][line.count("\t", 0, start) :])
        at, right = start, 0
        for cluster, (left_cells, right_cells) in zip(clusters, pairwise(cells), strict=True):
            right += next(tabs) if cluster == "\t" else right_cells - left_cells
            if right > x_offset:
                return at
            at += len(cluster)
        # Behind the last section is a place for the cursor, else it would be in the next one.
        return end if end == len(line) else end - len(clusters[-1])


def _wrapped(line: str, width: int, tab_width: int) -> tuple[list[int], list[int]]:
    """Where a line is broken, and the cells of its tabs."""
    sections = get_tab_widths(line, tab_width)
    tabs = [cells for _, cells in sections]
    if not width:
        return [], tabs
    if "\t" not in line:
        return break_offsets(line, width, CURSOR), tabs
    columns: list[int] = []  # of each character of the line without tabs
    for section, cells in sections:
        start = columns[-1] + 1 if columns else 0
        columns += range(start, start + len(section))
        columns += [start + len(section)] * cells
    spaced = "".join(section + " " * cells for section, cells in sections)
    offsets = {columns[offset] for offset in break_offsets(spaced, width, CURSOR)}
    return sorted(offsets - {0}), tabs


class _WholeText(Text):
    """A text whose characters have one style each. Textual's cursor is as long as a code point."""

    def stylize(self, style: str | Style, start: int = 0, end: int | None = None) -> None:
        if end is not None:
            end = boundary_after(self.plain, end)
        super().stylize(style, boundary_before(self.plain, start), end)


class LiteralTextArea(TextArea):
    """A text area whose control characters are shown, in one cell each.

    It computes its styles when these have changed. A `TextArea` does so for each frame, even one
    in which only what is above it has changed.
    """

    _styles_applied = False

    def _set_document(self, text: str, language: str | None) -> None:
        self.document = Document(text)
        self.wrapped_document = WrappedText(self.document, tab_width=self.indent_width)
        self.navigator = DocumentNavigator(self.wrapped_document)
        self.move_cursor((0, 0))
        self._rewrap_and_refresh_virtual_size()

    def validate_selection(self, selection: text_area.Selection) -> text_area.Selection:
        return text_area.Selection(
            *((row, boundary_after(self.document[row], column)) for row, column in selection)
        )

    def get_cursor_left_location(self) -> Location:
        row, column = self.cursor_location
        if column == 0:
            return super().get_cursor_left_location()
        return row, boundary_before(self.document[row], column - 1)

    def get_cursor_right_location(self) -> Location:
        row, column = self.cursor_location
        if column == len(self.document[row]):
            return super().get_cursor_right_location()
        return row, boundary_after(self.document[row], column + 1)

    def get_cursor_line_end_location(self) -> Location:
        row, column = super().get_cursor_line_end_location()
        return row, boundary_before(self.document[row], column)

    def get_cursor_word_left_location(self) -> Location:
        row, column = self.cursor_location
        if column == 0:
            return super().get_cursor_left_location()
        return row, word_left(self.document[row], column)

    def get_cursor_word_right_location(self) -> Location:
        row, column = self.cursor_location
        if column == len(self.document[row]):
            return super().get_cursor_right_location()
        return row, word_right(self.document[row], column)

    def action_delete_word_right(self) -> None:
        start, end = self.selection
        if start == end:
            end = self.get_cursor_word_right_location()
        self.delete(start, end, maintain_selection_offset=False)

    def get_column_width(self, row: int, column: int) -> int:
        shown = one_cell(self.document[row])[:column]
        return cell_len(expand_tabs_inline(shown, self.indent_width))

    def get_line(self, line_index: int) -> Text:
        return _WholeText(one_cell(self.document.get_line(line_index)), end="", no_wrap=True)

    def _render_line(self, y: int) -> Strip:
        # A character whose code points are drawn one by one may look like several.
        strip = super()._render_line(y).simplify()
        return strip.adjust_cell_length(self.scrollable_content_region.width)

    def notify_style_update(self) -> None:
        self._styles_applied = False
        super().notify_style_update()

    def render_lines(self, crop: Region) -> list[Strip]:
        if self.content_size.width < 1:  # the placeholder cannot be wrapped into that
            return [Strip.blank(crop.width, self.visual_style.rich_style)] * crop.height
        if self._styles_applied:
            return super(TextArea, self).render_lines(crop)
        self._styles_applied = True
        return super().render_lines(crop)
