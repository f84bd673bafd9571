"""The themes: the app's own, Textual's, and the terminal's own colours."""

from textual.theme import Theme

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
OWN = (DARK, LIGHT)


def theme_name(setting: str, *, light: bool) -> str:
    """Textual's name of a theme.

    Args:
        setting: one of `settings.THEMES`.
        light: the background of the terminal.
    """
    match setting:
        case "auto":
            return (LIGHT if light else DARK).name
        case "dark":
            return DARK.name
        case "light":
            return LIGHT.name
        case "ansi":
            return "ansi-light" if light else "ansi-dark"
        case name:
            return name
