"""What follows when another process is lost that runs the model, too."""

from collections.abc import Callable

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ScreenView
from qwen35_chat.question import Question
from qwen35_mlx.session.events import ProcessesLost


class AloneHandler:
    """Offers to go on with this machine alone."""

    def __init__(self, controller: Controller, view: ScreenView, quit: Callable[[], None]):
        self._controller = controller
        self._view = view
        self._quit = quit

    async def offer(self, lost: ProcessesLost) -> None:
        """Let the user choose; then the chat ends, to be started again without the others."""
        if not lost.fits:
            return
        question = Question(
            "Go on with this machine alone?",
            lost.message,
            "The chat starts again, with this conversation, and loads the whole model here.",
            "Go on alone",
            "Stay, to read and copy",
        )
        if await self._view.confirm(question):
            self._controller.alone = True
            self._quit()
