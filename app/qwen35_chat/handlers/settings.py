"""Settings, each of which is stored at once."""

from difflib import get_close_matches

from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import Work
from qwen35_chat.handlers.view import ChatView, ScreenView
from qwen35_chat.settings import (
    PRESET_THINKING,
    PRESETS,
    SWITCH,
    THEMES,
    THINKING,
    VIEWS,
    Settings,
    display_value,
    parse_value,
)
from qwen35_mlx.errors import Qwen35Error

AT_START = ("model", "mtp", "tools_folder")
SHOWN_VALUE = 60  # characters


def changed_line(settings: Settings, name: str) -> str:
    """What to say of a setting that was changed."""
    value = " ".join(display_value(settings, name).split()) or "none"
    shown = value if len(value) <= SHOWN_VALUE else f"{value[:SHOWN_VALUE].rstrip()}…"
    return f"{name} is {shown}, from {'the next start' if name in AT_START else 'now'} on"


class SettingsHandler:
    """Commands about settings that the screen and plain mode share."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    async def change(self, name: str, text: str) -> None:
        """Change a setting to what the user wrote."""
        self._view.show(await self._controller.configure(name, parse_value(name, text)))

    async def settings(self, text: str = "") -> None:
        """Change a setting by `name value`, or list them all."""
        name, _, value = text.partition(" ")
        if value:
            await self.change(name, value)
            self._view.show_message(changed_line(self._controller.settings, name))
        else:
            self._view.list_settings(self.change)


class ScreenSettingsHandler(SettingsHandler):
    """On the screen a command without a value goes to the setting's next value."""

    def __init__(self, controller: Controller, view: ScreenView):
        super().__init__(controller, view)
        self._screen = view

    async def _cycle(self, name: str, values: tuple[str, ...], text: str) -> str:
        """Change a setting to `text`, or to the value after the present one; the new value."""
        if text and text not in values:
            raise Qwen35Error(f"{text!r} is not one of {', '.join(values)}")
        now = getattr(self._controller.settings, name)
        to = text or values[(values.index(now) + 1) % len(values)]
        await self.change(name, to)
        return to

    async def thinking(self, text: str = "") -> None:
        """On or off; "auto" counts as on, which it is for most models."""
        now = self._controller.settings.thinking
        to = await self._cycle("thinking", THINKING, text or ("on" if now == "off" else "off"))
        shown = "as the model's template says" if to == "auto" else to
        self._view.show_message(f"Thinking {shown}, from the next message on")

    async def view(self, text: str = "") -> None:
        to = await self._cycle("thinking_view", VIEWS, text)
        self._view.show_message(f"Thinking is shown {to}")

    async def vim(self, text: str = "") -> None:
        to = await self._cycle("vim", SWITCH, text)
        keys = "Esc goes to normal mode, and there stops the reply" if to == "on" else "as usual"
        self._view.show_message(f"Keys of vim {to}: {keys}")

    async def preset(self, text: str = "") -> None:
        to = await self._cycle("preset", tuple(PRESETS), text)
        if to in PRESET_THINKING:
            await self.change("thinking", PRESET_THINKING[to])
        # Values that are set by themselves override the preset's.
        sampling = self._controller.settings.chat_settings().sampling
        values = ", ".join(f"{name} {value:g}" for name, value in sampling.items())
        self._view.show_message(f"Preset {to}: {values or 'as the model says'}")

    def theme(self, text: str = "") -> Work | None:
        """Use a theme, or list them all."""
        if text:
            return self._use_theme(text)
        self._screen.list_themes(self._use_theme)
        return None

    async def _use_theme(self, name: str) -> None:
        if name not in THEMES:
            like = get_close_matches(name, THEMES, 1)
            hint = f"did you mean {like[0]}?" if like else "/theme lists them"
            raise Qwen35Error(f"there is no theme {name!r}: {hint}")
        await self.change("theme", name)
        self._view.show_message(f"Theme {name}")

    async def system(self, text: str = "") -> None:
        if text:
            await self._set_system(text)
        else:
            now = self._controller.settings.system
            self._screen.ask("System prompt", now, self._set_system)

    async def _set_system(self, prompt: str) -> None:
        await self.change("system", prompt)
        kept = "System prompt kept" if prompt.strip() else "No system prompt"
        self._view.show_message(kept)
