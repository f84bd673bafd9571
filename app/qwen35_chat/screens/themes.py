"""The list of themes, each of which is tried while it is marked."""

from collections.abc import Sequence

from textual.content import Content
from textual.theme import Theme
from textual.widgets import OptionList

from qwen35_chat.completion import score
from qwen35_chat.screens.picker import Picker, Row
from qwen35_chat.screens.work import working_app
from qwen35_chat.settings import THEMES, Settings
from qwen35_chat.themes import theme_name

ABOUT = {
    "auto": "as the terminal is, dark or light",
    "ansi": "the terminal's own colours",
}
SAMPLE = "●"


class ThemeList(Picker):
    """Its result is the name of a theme, as in the settings.

    It stands beside the chat, which shows the marked theme. Leaving it restores the one before.
    """

    FULL_HEIGHT = True

    def __init__(self, settings: Settings):
        super().__init__(
            "Themes", self._make_rows, hint="Enter keeps it, Esc goes back to the one before"
        )
        self._now = settings.theme
        self._tried = self._now

    def _show_rows(self, rows: Sequence[Row], keep: str | None) -> None:
        super()._show_rows(rows, keep or self._now)

    def _make_rows(self, words: str) -> Sequence[Row]:
        found = [name for name in THEMES if score(words, name) is not None]
        return [self._row(name) for name in found] or [Row("", Content("No theme is called so"))]

    def _row(self, name: str) -> Row:
        here = "• " if name == self._now else "  "
        if about := ABOUT.get(name):
            return Row(name, Content.assemble(here, (name, "bold"), (f"  {about}", "dim")))
        theme = self.app.available_themes[theme_name(name, light=False)]
        shade = "dark " if theme.dark else "light"
        right = Content.styled(f"{shade} ", "dim") + _samples(theme)
        return Row(name, Content.assemble(here, (name, "bold")), right)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_id is not None and event.option_id != self._tried:
            self._tried = event.option_id
            working_app(self).use_theme(event.option_id)

    def action_leave(self) -> None:
        working_app(self).use_theme()
        super().action_leave()


def _samples(theme: Theme) -> Content:
    """Dots in the colours of a theme."""
    colours = (theme.primary, theme.accent or theme.primary, theme.error or theme.primary)
    return Content("").join([Content.styled(SAMPLE, colour) for colour in colours])
