"""The lists, questions and pages that cover the chat.

Their modules are imported when the first is shown, so that the first frame does not wait for them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from textual.screen import Screen

from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import Work
from qwen35_chat.personas import Personas
from qwen35_chat.question import Question
from qwen35_chat.screens.picker import Ask
from qwen35_chat.screens.work import working_app
from qwen35_chat.shell_command import Output
from qwen35_chat.stats import Section
from qwen35_chat.tools.toolbox import Toolbox
from qwen35_mlx.errors import Qwen35Error


class CoveredScreen(Screen[None]):
    """A screen that other screens cover, to let the user choose or answer.

    Attributes:
        clock: seconds, for what is timed on the screen.
    """

    def __init__(self, controller: Controller, clock: Callable[[], float]):
        super().__init__()
        self.controller = controller
        self.clock = clock

    def show_message(self, text: str, *, error: bool = False) -> None:
        """Show one line to the user."""
        raise NotImplementedError

    def perform(self, work: Work) -> None:
        """Do what waits for the disk, apart from the keys; an error is one line."""
        working_app(self).work.add(work, self.show_error)

    def show_error(self, line: str) -> None:
        self.show_message(line, error=True)

    def palette(self) -> None:
        from qwen35_chat.screens.lists import Palette

        self._pick(Palette(self.controller.settings.keys), self._run_chosen)

    def _run_chosen(self, name: str) -> None:
        self.call_later(self.action_command, name)

    def action_command(self, name: str, argument: str = "") -> None:
        """Run a command of the table."""
        raise NotImplementedError

    def help(self) -> None:
        from qwen35_chat.screens.help_page import help_text
        from qwen35_chat.screens.page import Page

        keys = self.controller.settings.keys
        self.app.push_screen(Page("Keys and commands", lambda width: help_text(keys, width)))

    def show_stats(self, sections: Sequence[Section]) -> None:
        from qwen35_chat.screens.help_page import stats_text
        from qwen35_chat.screens.page import Page

        self.app.push_screen(Page("Figures", lambda _: stats_text(sections)))

    def list_conversations(self, words: str, then: Callable[[int, int | None], Work]) -> None:
        from qwen35_chat.screens.conversations import ConversationList

        shown = ConversationList(self.controller, words)

        def opened(row: str) -> Work:
            conversation, _, message = row[1:].partition("m")
            if message:
                self.find_later(int(conversation), int(message), shown.words)
            return then(int(conversation), int(message) if message else None)

        self._pick(shown, opened)

    def find_later(self, conversation: int, message: int, words: str) -> None:
        """Go to words in a message of a conversation, once that is shown."""
        raise NotImplementedError

    def list_models(self, then: Callable[[str], None]) -> None:
        from qwen35_chat.screens.models import ModelList

        self._pick(ModelList(self.controller), then)

    def list_settings(self, change: Callable[[str, str], Work]) -> None:
        from qwen35_chat.screens.lists import SettingsList

        controller = self.controller
        file, arguments = controller.settings_file.file, controller.template_arguments
        self._pick(SettingsList(lambda: controller.settings, file, change, arguments))

    def list_themes(self, then: Callable[[str], Work]) -> None:
        from qwen35_chat.screens.themes import ThemeList

        self._pick(ThemeList(self.controller.settings), then)

    def list_personas(self, folder: Path, personas: Personas, then: Callable[[str], Work]) -> None:
        from qwen35_chat.screens.personas import PersonaList

        self._pick(PersonaList(folder, personas, self.controller.own_prompt), then)

    def list_tools(self, toolbox: Toolbox) -> None:
        from qwen35_chat.screens.tools import ToolList

        self._pick(ToolList(self.controller, toolbox))

    def list_history(self, texts: Sequence[str], then: Callable[[str], None]) -> None:
        from qwen35_chat.screens.lists import HistoryList

        self._pick(HistoryList(texts), lambda row: then(texts[int(row)]))

    async def confirm(self, question: Question) -> bool:
        """Ask the user, within a worker; whether the answer is yes."""
        from qwen35_chat.screens.question import QuestionScreen

        return await self.app.push_screen_wait(QuestionScreen(question, self.clock))

    def run_shell(self, command: str, then: Callable[[Output], None]) -> None:
        from qwen35_chat.screens.shell import ShellScreen

        def ended(output: Output | None) -> None:
            if output is not None:
                then(output)

        self.app.push_screen(ShellScreen(command, self.clock), ended)

    def ask(self, title: str, value: str, then: Callable[[str], Work]) -> None:
        self._pick(Ask(title, value), then)

    def ask_title(self, title: str, then: Callable[[str], Work]) -> None:
        self.ask("Title; empty for an automatic one", title, then)

    def _pick(
        self, screen: Screen[str | None], then: Callable[[str], Work | None] = lambda _: None
    ) -> None:
        """Cover this screen; `then` gets what was chosen there, unless the user leaves."""

        def chosen(choice: str | None) -> None:
            if choice is not None:
                self.attempt(lambda: then(choice))

        self.app.push_screen(screen, chosen)

    def attempt(self, action: Callable[[], Work | None]) -> None:
        """Do a part of a command; an error is one line for the user."""
        try:
            work = action()
        except Qwen35Error as error:
            self.show_message(str(error), error=True)
            return
        if work is not None:
            self.perform(work)
