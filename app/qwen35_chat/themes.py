"""The themes: dark, light, and the terminal's own colours."""

from typing import Any

from textual.app import App
from textual.theme import Theme

from qwen35_chat.settings import Settings

DARK = Theme(
    name="qwen-dark",
    primary="#8fb4ff",
    secondary="#7f8aa3",
    accent="#8fb4ff",
    foreground="#d8dbe2",
    background="#15171c",
    surface="#1f222a",
    panel="#262a33",
    success="#98c99a",
    warning="#e6c07b",
    error="#f28b82",
    dark=True,
)
LIGHT = Theme(
    name="qwen-light",
    primary="#2d5fbd",
    secondary="#6b7280",
    accent="#2d5fbd",
    foreground="#24272e",
    background="#fbfbf8",
    surface="#efefe9",
    panel="#e6e6df",
    success="#2f7d3a",
    warning="#9a6700",
    error="#b3261e",
    dark=False,
)
THEMES = {"dark": DARK.name, "light": LIGHT.name, "ansi": "ansi-dark"}


def use_theme(app: App[Any], settings: Settings) -> None:
    """Apply the theme of the settings."""
    app.theme = THEMES[settings.theme]
