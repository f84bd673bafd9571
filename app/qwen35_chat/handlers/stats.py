"""Figures of the conversation and of the session."""

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.stats import sections


class StatsHandler:
    """The command that shows them."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    async def show(self) -> None:
        at = self._controller
        stored = None
        if at.conversation is not None:
            stored = await at.calls.run("reads", at.library.conversation, at.conversation)
        self._view.show_stats(sections(stored, at.totals, at.used, at.context))
