"""Commands that plain mode answers in its own way."""

from collections.abc import Iterable

from qwen35_chat.drawing.sections import fenced_code
from qwen35_chat.handlers.conversations import ConversationHandler
from qwen35_chat.handlers.settings import SettingsHandler
from qwen35_chat.library_actions import undelete
from qwen35_chat.plain_view import PlainView
from qwen35_chat.settings import PRESET_THINKING, PRESETS, THINKING, VIEWS
from qwen35_mlx.errors import Qwen35Error


class PlainConversationHandler(ConversationHandler):
    """The conversation that is opened is written out next, so the messages are shorter."""

    async def undo(self) -> None:
        self._controller.open((await undelete(self._controller)).id)


class PlainSettingsHandler(SettingsHandler):
    """A command needs a value; without a status line, cycling would be blind."""

    async def _choose(self, name: str, values: Iterable[str], text: str) -> None:
        known = tuple(values)
        if text not in known:
            now = getattr(self._controller.settings, name)
            raise Qwen35Error(f"{name} is {now}; give one of: {', '.join(known)}")
        await self.change(name, text)
        self._view.show_message(f"{name}: {text}")

    async def thinking(self, text: str = "") -> None:
        await self._choose("thinking", THINKING, text)

    async def view(self, text: str = "") -> None:
        await self._choose("thinking_view", VIEWS, text)

    async def preset(self, text: str = "") -> None:
        await self._choose("preset", PRESETS, text)
        if text in PRESET_THINKING:
            await self.change("thinking", PRESET_THINKING[text])

    async def system(self, text: str = "") -> None:
        """Set the system prompt, or show it."""
        if text:
            await self.change("system", text)
        now = self._controller.settings.system
        self._view.show_message(f"System prompt: {now or 'none'}")


class AnswerHandler:
    """Commands about the last answer."""

    def __init__(self, view: PlainView):
        self._view = view

    def copy(self) -> None:
        if not self._view.answer:
            raise Qwen35Error("there is nothing to copy yet")
        self._view.copy(self._view.answer.strip("\n"))

    def copy_code(self) -> None:
        """Copy the last block of code."""
        codes = fenced_code(self._view.answer)
        if not codes:
            raise Qwen35Error("there is no code in the last answer")
        self._view.copy(codes[-1])
