"""The themes: dark, light, and the terminal's own colours."""

from typing import Any

from textual.app import App
from textual.theme import Theme

from qwen35_chat.settings import Settings

DARK = Theme(
    name="qwen-dark",
    primary="#a394ff",
    secondary="#7aa7ff",
    accent="#63cfb8",
    foreground="#dddde8",
    background="#14141b",
    surface="#1e1e29",
    panel="#272735",
    success="#8fce9b",
    warning="#e8c07a",
    error="#f28b8b",
    dark=True,
)
LIGHT = Theme(
    name="qwen-light",
    primary="#5a45d6",
    secondary="#2d5fbd",
    accent="#0a7564",
    foreground="#25242e",
    background="#fbfafd",
    surface="#f0eef7",
    panel="#e5e2f0",
    success="#2a7a3b",
    warning="#8f6000",
    error="#b3261e",
    dark=False,
)
THEMES = {"dark": DARK.name, "light": LIGHT.name, "ansi": "ansi-dark"}


def use_theme(app: App[Any], settings: Settings) -> None:
    """Apply the theme of the settings."""
    app.theme = THEMES[settings.theme]
