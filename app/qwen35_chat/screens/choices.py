"""What the commands about the model and the settings do on the chat screen."""

from qwen35_chat.screens.conversation import Turns
from qwen35_chat.screens.lists import SettingsList
from qwen35_chat.screens.models import Models
from qwen35_chat.screens.picker import Ask
from qwen35_chat.settings import PRESET_THINKING, PRESETS, THEMES, THINKING, VIEWS, parse_value
from qwen35_mlx.errors import Qwen35Error


class Choices(Turns):
    """Each method is a command of the table; a `Qwen35Error` is shown by who called it."""

    def models(self, name: str = "") -> None:
        if name:
            self.controller.use_model(name)
            return
        self.app.push_screen(Models(self.controller), self._use_model)

    def _use_model(self, name: str | None) -> None:
        if name is not None:
            try:
                self.controller.use_model(name)
            except Qwen35Error as error:
                self.say(str(error), error=True)

    def unload(self) -> None:
        self.controller.unload()

    def change(self, name: str, text: str) -> None:
        """Change a setting for good."""
        self.controller.configure(name, parse_value(name, text))
        self.settings_changed()

    def _cycle(self, name: str, values: tuple[str, ...], now: str, text: str) -> str:
        if text and text not in values:
            raise Qwen35Error(f"{text!r} is none of: {', '.join(values)}")
        to = text or values[(values.index(now) + 1) % len(values)]
        self.change(name, to)
        return to

    def thinking(self, text: str = "") -> None:
        """On or off; the model's default counts as on, which it mostly is."""
        now = self.controller.settings.thinking
        if not text:
            text = "on" if now == "off" else "off"
        to = self._cycle("thinking", THINKING, now, text)
        said = {"auto": "as the model's template says"}.get(to, to)
        self.say(f"Thinking {said}, from the next message on")

    def view(self, text: str = "") -> None:
        to = self._cycle("thinking_view", VIEWS, self.view_now, text)
        self.say(f"Thinking is shown {to}")

    def preset(self, text: str = "") -> None:
        to = self._cycle("preset", tuple(PRESETS), self.controller.settings.preset, text)
        if to in PRESET_THINKING:
            self.change("thinking", PRESET_THINKING[to])
        now = (
            self.controller.settings.chat_settings().sampling
        )  # single settings go over the preset's
        values = ", ".join(f"{name} {value:g}" for name, value in now.items())
        self.say(f"Preset {to}: {values or 'as the model says'}")

    def system(self, text: str = "") -> None:
        def given(prompt: str | None) -> None:
            if prompt is not None:
                try:
                    self.change("system", prompt)
                    self.say("System prompt kept" if prompt.strip() else "No system prompt")
                except Qwen35Error as error:
                    self.say(str(error), error=True)

        if text:
            given(text)
        else:
            self.app.push_screen(Ask("System prompt", self.controller.settings.system), given)

    def theme_to(self, text: str = "") -> None:
        self.say(f"Theme {self._cycle('theme', THEMES, self.controller.settings.theme, text)}")

    def settings(self, text: str = "") -> None:
        name, _, value = text.partition(" ")
        if value:
            self.change(name, value)
            self.say(f"{name}: kept")
            return
        controller = self.controller
        self.app.push_screen(
            SettingsList(lambda: controller.settings, controller.file.file, self.change)
        )
