"""Lines of the transcript as Textual draws them, in a cache."""

from dataclasses import replace
from itertools import islice

from rich.segment import Segment
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from qwen35_chat.drawing.line import BLANK, Line

# A strip has about twenty objects, all of which the garbage collector visits.
CACHED_SCREENS = 4
FILLED = (".user", ".code", ".code-head", ".inline-code")  # styles with a background of their own
# What stands in the gutter of a line with this fill, and its style: who speaks.
BARS = {".user": ("▌", ".user-bar"), ".reply": ("◆", ".reply-bar")}
MARK = "█", ".mark"


class StripCache:
    """Makes strips in the styles of a widget. `clear` it when these change.

    Args:
        widget: whose component classes `transcript--…` the styles of lines name.
    """

    def __init__(self, widget: Widget):
        self._widget = widget
        self._cache: dict[tuple[int, int], tuple[Line, bool, tuple[int, int] | None, Strip]] = {}

    def clear(self) -> None:
        """Drop all strips."""
        self._cache.clear()

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
        """A line, after a gutter of one cell.

        Args:
            indent: cells between the gutter and the line.
            columns: cells of text, which a fill covers.
            width: cells of the strip.
            selected: the characters of the line's content that are selected.
        """
        marked = marked and line.content is not BLANK
        key = id(line), indent  # the empty line is in entries of any indent
        cached = self._cache.get(key)
        if cached and cached[:3] == (line, marked, selected) and cached[3].cell_length == width:
            return cached[3]
        plain = self._widget.visual_style
        base = plain + self._style(line.fill) if line.fill else plain
        content = line.content
        if selected is not None:
            style = self._widget.screen.get_visual_style("screen--selection")
            content = content.stylize(style, *selected)
        own = base if line.fill == ".user" else plain  # this fill has the gutter, too
        bar, style = MARK if marked else BARS.get(line.fill, (" ", ""))
        gutter = own + self._style(style) if style else own
        segments = [
            Segment(bar, gutter.rich_style),
            Segment(" " * indent, own.rich_style),
        ]
        segments += [
            Segment(text, (base + style).rich_style)
            for text, style in content.render(base, end="", parse_style=self._style)
        ]
        strip = Strip(segments).crop_extend(0, min(width, columns + 1), base.rich_style)
        strip = strip.crop_extend(0, width, plain.rich_style)
        if len(self._cache) > CACHED_SCREENS * self._widget.size.height:
            for oldest in list(islice(self._cache, len(self._cache) // 2)):
                del self._cache[oldest]
        self._cache[key] = (line, marked, selected, strip)
        return strip

    def _style(self, style: str | Style) -> Style:
        if isinstance(style, Style):
            return style
        if style.startswith("."):
            found = self._widget.get_visual_style(f"transcript--{style[1:]}")
            # A style without a background of its own has that of its line.
            return found if style in FILLED else replace(found, background=None)
        return Style.parse(style)
