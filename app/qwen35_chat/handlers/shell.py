"""`!command`: its output goes into the message."""

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ScreenView
from qwen35_chat.shell_command import Output, shell_command
from qwen35_mlx.errors import Qwen35Error

AS_MESSAGE = "As a message it goes with a space before the !"


class ShellHandler:
    """Runs commands that were typed, key by key, if the settings allow it.

    What was pasted, or written by a model or a program, is never run.
    """

    def __init__(self, controller: Controller, view: ScreenView):
        self._controller = controller
        self._view = view

    def take(self, text: str) -> bool:
        """Run the command that the composer's text is; False if it is a message.

        Raises:
            Qwen35Error: it is a command, and must not run.
        """
        command = shell_command(text)
        allowed = self._controller.settings.shell_commands == "on"
        typed = self._view.composer.typed
        if not command or not (allowed or typed):
            return False
        if not allowed:
            raise Qwen35Error(
                "commands of the shell are off: /settings shell_commands on allows them. "
                f"{AS_MESSAGE}"
            )
        if not typed:
            raise Qwen35Error(f"a command has to be typed, key by key, to be run. {AS_MESSAGE}")
        self._view.run_shell(command, self._add)
        return True

    def _add(self, output: Output) -> None:
        self._view.composer.put_output(output.quoted)
