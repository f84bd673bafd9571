"""Lines of the transcript as Textual draws them, kept for as long as they may be drawn again."""

from dataclasses import replace
from itertools import islice

from rich.segment import Segment
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from qwen35_chat.drawing.lines import BLANK, Line

# Each strip is some twenty objects, at all of which the garbage collector looks.
KEPT_SCREENS = 4
FILLED = (".user", ".code", ".code-head")  # styles with a background of their own


class StripCache:
    """Makes strips in the styles of a widget; `clear` once these have changed.

    Args:
        widget: whose component classes `transcript--…` the styles of lines name.
    """

    def __init__(self, widget: Widget):
        self._widget = widget
        self._kept: dict[int, tuple[Line, bool, Strip]] = {}

    def clear(self) -> None:
        self._kept.clear()

    def strip(
        self,
        line: Line,
        *,
        indent: int,
        columns: int,
        width: int,
        marked: bool = False,
        selected: tuple[int, int] | None = None,
    ) -> Strip:
        """A line behind its gutter of one cell.

        Args:
            indent: cells between the gutter and the line.
            columns: of text; a fill reaches so far.
            width: cells of the strip.
            selected: from where to where in the strip; -1 is its end.
        """
        marked = marked and line.content is not BLANK
        kept = self._kept.get(id(line))
        if kept and kept[:2] == (line, marked) and kept[2].cell_length == width and not selected:
            return kept[2]
        plain = self._widget.visual_style
        base = self._style(line.fill) if line.fill else plain
        content = line.content
        if selected is not None:
            start, end = within(selected, indent, content.plain)
            style = self._widget.screen.get_visual_style("screen--selection")
            content = content.stylize(style, max(start, line.prefix), end)
        gutter = plain + self._style(".mark") if marked else plain
        segments = [
            Segment("▌" if marked else " ", gutter.rich_style),
            Segment(" " * indent, (base if indent == 1 else plain).rich_style),
        ]
        segments += [
            Segment(text, (base + style).rich_style)
            for text, style in content.render(base, end="", parse_style=self._style)
        ]
        strip = Strip(segments).crop_extend(0, min(width, columns + 1), base.rich_style)
        strip = strip.crop_extend(0, width, plain.rich_style)
        if selected is None:
            if len(self._kept) > KEPT_SCREENS * self._widget.size.height:
                for oldest in list(islice(self._kept, len(self._kept) // 2)):
                    del self._kept[oldest]
            self._kept[id(line)] = (line, marked, strip)
        return strip

    def _style(self, style: str | Style) -> Style:
        if isinstance(style, Style):
            return style
        if style.startswith("."):
            found = self._widget.get_visual_style(f"transcript--{style[1:]}")
            # What is only coloured has the background of its line.
            return found if style in FILLED else replace(found, background=None)
        return Style.parse(style)


def within(span: tuple[int, int], indent: int, text: str) -> tuple[int, int]:
    """A part of a strip as a part of its line's text."""
    start, end = span
    gutter = 1 + indent
    return max(start - gutter, 0), len(text) if end == -1 else max(end - gutter, 0)
