"""`qwen35-chat --plain`: the chat as lines of text, for screen readers, logs and dumb terminals.

Nothing is redrawn and nothing moves. The commands are those of the screen, by their slash names.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutine
from typing import TextIO, cast

from qwen35_chat.chips import draft_in_full
from qwen35_chat.commands import BY_SLASH
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import finished
from qwen35_chat.handlers.models import ModelHandler
from qwen35_chat.handlers.personas import PersonaHandler
from qwen35_chat.handlers.plain import (
    AnswerHandler,
    PlainConversationHandler,
    PlainSettingsHandler,
)
from qwen35_chat.handlers.shell import AS_MESSAGE
from qwen35_chat.handlers.stats import StatsHandler
from qwen35_chat.handlers.tools import ToolHandler
from qwen35_chat.handlers.versions import VersionHandler
from qwen35_chat.options import EMPTY, Start
from qwen35_chat.plain_files import with_files
from qwen35_chat.plain_input import drop_typed_input
from qwen35_chat.plain_view import PlainView
from qwen35_chat.question import Question as FileQuestion
from qwen35_chat.shell_command import shell_command
from qwen35_chat.slash import parse_slash
from qwen35_chat.tools.calling import ANSWERS, Answer, CallQuestion, Question
from qwen35_mlx import __version__
from qwen35_mlx.errors import Qwen35Error

POLLS_PER_SECOND = 15


class PlainMode:
    """Reads lines, sends them or runs them as commands, and waits for what they lead to.

    Args:
        attended: a user writes the lines, and may answer questions of tools.
        read: returns the next line after a prompt; raises EOFError at the end.
        out: as for `PlainView`.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        attended: bool,
        read: Callable[[str], str] = input,
        out: TextIO | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.controller = controller
        controller.has_keys = False
        self.view = PlainView(controller, out, clock, agree=self._agree)
        self.conversations = PlainConversationHandler(controller, self.view)
        self.versions = VersionHandler(controller, self.view)
        self.models = ModelHandler(controller, self.view)
        self.stats = StatsHandler(controller, self.view)
        self.personas = PersonaHandler(controller, self.view)
        self.settings = PlainSettingsHandler(controller, self.view)
        self.messages = AnswerHandler(self.view)
        self.tools = ToolHandler(controller, self.view)
        self._attended = attended
        self._read = read
        self._sleep = sleep
        self._ended = False
        self._interrupted = False

    def run(self, start: Start = EMPTY) -> None:
        """Run until the input ends, or /quit."""
        line = self.view.line
        line(f"qwen35-chat {__version__}, {self.controller.model}. /help lists the commands.")
        self.controller.start(start.conversation, start.settings)
        self._wait()
        if draft := finished(self.controller.draft()):
            line(f"Not sent last time: {draft_in_full(draft)}")
        if start.choose:
            self._do("/sessions")
        if start.message:
            line(f"You: {start.message}")
            self._do(start.message)
        while not self._ended:
            try:
                text = self._read_message()
            except EOFError:
                line("")
                break
            except KeyboardInterrupt:
                line("")
                continue
            self._do(text)
        finished(self._show_changes())

    def _read_message(self) -> str:
        """Read a message. A line that ends in a backslash goes on in the next."""
        lines = [self._read("You: ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._read("More: "))
            except EOFError:
                self.controller.save_draft("\n".join(lines))
                raise
        return "\n".join(lines)

    def _do(self, text: str) -> None:
        """Take a message or a command, and wait for what it leads to; an error is one line."""
        try:
            self._take(text)
            self._wait()
        except Qwen35Error as error:
            self.view.show_message(str(error), error=True)

    def _take(self, text: str) -> None:
        """Send a message, or run a command."""
        if not text.strip():
            return
        if parsed := parse_slash(text):
            command, argument = parsed
            if command.screen:
                raise Qwen35Error(f"/{command.slash} needs the screen: start without --plain")
            work = command.run(self, argument)
            if iscoroutine(work):
                finished(work)
            return
        if self._attended and shell_command(text):
            raise Qwen35Error(f"a command of the shell needs the screen. {AS_MESSAGE}")
        whole = with_files(text, self.controller, self._agree, attended=self._attended)
        if whole is None:
            return
        self.view.show(self.controller.send(whole))
        try:
            self.controller.save_draft("")
            self.controller.remember(text)
        except Qwen35Error as error:
            self.view.show_message(str(error), error=True)

    def _agree(self, question: FileQuestion) -> bool:
        """Let the user answer yes or no. Without a user the answer is no."""
        self.view.line(question.title)
        self.view.line(question.summary)
        self.view.line(question.text)
        if not self._attended:
            self.view.line("No: standard input is no terminal, so that nobody can agree.")
            return False
        drop_typed_input()
        try:
            agreed = self._read("yes or no: ").strip().lower() in ("yes", "y")
        except (EOFError, KeyboardInterrupt):
            self.view.line("")
            agreed = False
        if not agreed:
            self.view.line("Not sent.")
        return agreed

    def help(self) -> None:
        for name, command in BY_SLASH.items():
            if not command.screen:
                argument = f" ({command.argument})" if command.argument else ""
                self.view.line(f"/{name}{argument}: {command.help}")
        self.view.line(
            "A line that ends in \\ goes on in the next. Ctrl+C stops a reply, Ctrl+D quits."
        )

    def quit(self) -> None:
        self._ended = True

    # Waiting

    def _wait(self) -> None:
        """Write what happens until the engine has nothing more to do; Ctrl+C stops it.

        What a tool waits for is asked in between.
        """
        self.view.begin_wait()
        while self.controller.pending:
            self._wait_for_engine()
            if (question := self.controller.question) is not None:
                self._ask(question)

    def _ask(self, question: Question) -> None:
        """Let the user answer a question; Ctrl+C, and the end of the input, stop the reply.

        Without a user the answer is no: a line of a file or a pipe was not written for this call.
        """
        self.view.show_question(question)
        if not self._attended:
            self.view.line("No: standard input is no terminal, so that nobody can allow it.")
            self.controller.answer_tool("no")
            return
        drop_typed_input()
        allowed = ANSWERS if isinstance(question, CallQuestion) else ("once", "no")
        while True:
            try:
                text = self._read(f"{', '.join(allowed[:-1])} or {allowed[-1]}: ")
            except (EOFError, KeyboardInterrupt):
                self.view.line("")
                self.controller.stop()
                return
            if (answer := text.strip().lower()) in allowed:
                self.controller.answer_tool(cast(Answer, answer))
                return

    def _wait_for_engine(self) -> None:
        """Write what happens until there is a question or nothing more to do."""
        with self._interrupts():
            while self.controller.pending:
                finished(self._show_changes())
                if not self.controller.pending or self.controller.question is not None:
                    return
                if self._interrupted:
                    self._interrupted = False
                    self.controller.stop()
                self._sleep(1 / POLLS_PER_SECOND)

    async def _show_changes(self) -> None:
        async for transition in self.controller.poll():
            self.view.show(transition)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Note Ctrl+C for the time of a wait, so that it does not break off anything."""
        self._interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
