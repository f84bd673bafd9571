"""The chat: the conversation, the composer, and the two lines about how it goes."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from textual.app import App, ComposeResult
from textual.containers import Vertical

from qwen35_chat.attachments import as_typed
from qwen35_chat.commands import Command, run_command
from qwen35_chat.controller import Controller
from qwen35_chat.cpu_budget import CpuBudget
from qwen35_chat.disk_calls import Work
from qwen35_chat.drawing.entries import NoticeEntry, ReplyEntry, ThinkingView
from qwen35_chat.drawing.messages import DEMO_GREETING, entries_of
from qwen35_chat.handlers.alone import AloneHandler
from qwen35_chat.handlers.conversations import ConversationHandler
from qwen35_chat.handlers.messages import MessageHandler
from qwen35_chat.handlers.models import ModelHandler
from qwen35_chat.handlers.personas import PersonaHandler
from qwen35_chat.handlers.settings import ScreenSettingsHandler
from qwen35_chat.handlers.stats import StatsHandler
from qwen35_chat.handlers.tools import ToolHandler
from qwen35_chat.handlers.versions import VersionHandler
from qwen35_chat.handlers.writing import WritingHandler
from qwen35_chat.options import EMPTY, Start
from qwen35_chat.progress import UNLOADED, download_outcome, short_name
from qwen35_chat.screens.completer import Completer
from qwen35_chat.screens.draft import ScreenDraft
from qwen35_chat.screens.find import Find
from qwen35_chat.screens.first import LOWEST_HIGH, FirstScreen
from qwen35_chat.screens.key_bindings import chat_bindings
from qwen35_chat.screens.notifier import Notifier
from qwen35_chat.screens.progress_lines import ProgressLines
from qwen35_chat.screens.tool_question import QuestionAsker
from qwen35_chat.screens.turn_entries import TurnEntries
from qwen35_chat.screens.typing import TypingScreen
from qwen35_chat.screens.watchers import Watchers
from qwen35_chat.screens.work import WorkQueue, working_app
from qwen35_chat.textual_private import set_bindings
from qwen35_chat.transitions import (
    ConversationShown,
    LoadFailed,
    MessagePutOff,
    Problem,
    QueueReturned,
    ReplyStarted,
    SettingsChanged,
    Transition,
    TurnRequested,
    TurnTakenBack,
)
from qwen35_chat.widgets.completions import Completions
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.transcript import TranscriptView
from qwen35_mlx.session.events import Loaded, Notice, ProcessesLost, Unloaded

# Often enough to look continuous, rarely enough to leave the GIL to the model.
POLLS_PER_SECOND = 15
# While the user waits for a conversation, say, and no reply is written.
QUICK_POLLS_PER_SECOND = 60
DRAWING_SHARE = 0.1
KEPT_NOTICES = 20


class ChatScreen(TypingScreen):
    """One conversation with one model.

    It renders the controller's transitions, and holds the handlers of the commands.

    Args:
        app: runs what waits.
        controller: its engine is started here, once the first frame is drawn.
        demo: whether it begins with the demonstration model.
        start: what it begins with.
        clock: seconds, for what is timed on the screen.
        ready: as for `ChatApp`.
    """

    # A low terminal has no room to spare around the composer.
    VERTICAL_BREAKPOINTS = [(0, "-low"), (LOWEST_HIGH, "-high")]  # noqa: RUF012
    AUTO_FOCUS = ""  # the composer takes it

    def __init__(
        self,
        app: App[Any],
        controller: Controller,
        *,
        demo: bool = False,
        start: Start = EMPTY,
        clock: Callable[[], float] = time.monotonic,
        ready: Callable[[], None] = lambda: None,
    ):
        super().__init__(controller, TranscriptView(clock), clock)
        self.completions = Completions()
        self.composer = Composer(
            self.completions,
            complete=self.complete,
            send=self.send_typed,
            step_history=lambda direction: self.writing.step_history(direction),
        )
        greeting = DEMO_GREETING if demo and start == EMPTY else ""
        self.writing = WritingHandler(controller, self, greeting)
        self.messages = MessageHandler(controller, self, self.writing)
        self.versions = VersionHandler(controller, self)
        self.conversations = ConversationHandler(controller, self)
        self.models = ModelHandler(controller, self)
        self.stats = StatsHandler(controller, self)
        self.personas = PersonaHandler(controller, self)
        self.settings = ScreenSettingsHandler(controller, self)
        self.tools = ToolHandler(controller, self)
        self.alone = AloneHandler(controller, self, self.quit)
        self.find = Find(self.transcript, self)
        self._begin = start
        # What most terminals get: another class at the first frame restyles every widget.
        self.update_classes({"-high": True, "-empty": start.conversation is None}, update=False)
        self._ready = ready
        self._lines = ProgressLines(controller, self.key, clock)
        self._turn_entries = TurnEntries(
            self.transcript, self.key, lambda: short_name(controller.model)
        )
        self._completer = Completer(self, controller, self.completions)
        self._budget = CpuBudget(DRAWING_SHARE)
        # Of the engine, with the conversation that each was about.
        self._notices: deque[tuple[int | None, str]] = deque(maxlen=KEPT_NOTICES)
        self._draft = ScreenDraft(
            self, controller, self.composer, lambda: self.writing.draft, self.show_error
        )
        self._sends = WorkQueue(app)
        self._questions = QuestionAsker(self, controller, clock)
        self._watchers = Watchers(controller, self)
        self._notifier = Notifier(app, controller, clock)
        self._first = FirstScreen(
            self, controller, self.transcript, self.composer, self.completions, self.key
        )

    def compose(self) -> ComposeResult:
        with Vertical(id="column"):
            yield self._first.face
            yield self.transcript
            yield self._lines.queue
            yield self._lines.activity
            yield self.completions
            yield self.composer
            yield self._first.starts
            yield self._first.tip
            yield self._lines.status

    def on_mount(self) -> None:
        self.show_queue()
        self._lines.status.update(model=short_name(self.controller.model))
        self._bind_keys()
        self.composer.focus()
        self.show_first()
        self._draft.load()
        self.composer.suggest(self.writing.greeting)
        self.show_progress()
        self.call_after_refresh(self._start)
        # A worker, since a handler that waits for the disk would keep the keys waiting, too.
        self.run_worker(self._watch_engine(), group="engine")
        self._watchers.start(self)

    def _start(self) -> None:
        self._ready()
        self.controller.start(self._begin.conversation, self._begin.settings)
        if self._begin.choose:
            self.conversations.list()
        if self._begin.conversation is None:
            self._send_first()

    def _send_first(self) -> None:
        """Send the message that the chat begins with, once."""
        message = self._begin.message
        self._begin = EMPTY
        if message:
            self.try_to_send(lambda: self.writing.send_first(message))

    def show_first(self) -> None:
        """Show the first screen while there is no message, unless one is being opened."""
        entries = self.transcript.entries
        first = self._begin.conversation is None and not any(e.author for e in entries)
        self._first.show(first)
        self._lines.status.update(named=not first)  # the first screen names the model

    # Keys and commands

    def _bind_keys(self) -> None:
        settings = self.controller.settings
        bindings = chat_bindings(settings.keys, vim=settings.vim == "on")
        set_bindings(self, bindings.chat)
        self.transcript.marking.use_keys(settings.keys)
        set_bindings(self.app, bindings.app)
        self.composer.typed_keys = bindings.typed
        self.composer.use_vim(settings.vim == "on")

    def key(self, name: str, most: int = 1) -> str:
        """The first keys of a command, at most `most`, for people."""
        return self.controller.key(name, most)

    def action_command(self, name: str, argument: str = "") -> None:
        """Run a command of the table."""
        if name == "stop" and self.clear_selected():
            return
        self.save_draft()
        run_command(name, self, argument)
        self.show_progress()

    def action_interrupt(self) -> None:
        """Copy what is selected; else stop the reply, clear what is typed, or quit."""
        if self.copy_selected():
            return
        if self.controller.busy and not self.controller.stopping:
            self.writing.stop()
            self.show_progress()
        elif self.writing.clear():
            self.show_message("Cleared; Up brings it back, Ctrl+C quits")
        else:
            self.quit()

    def run_later(self, command: Command, argument: str) -> None:
        self.call_later(self.action_command, command.name, argument)

    def attempt(self, action: Callable[[], Work | None]) -> None:
        super().attempt(action)
        self.show_progress()

    def _give_back(self, text: str) -> None:
        """Give a message back that was not sent; what is typed by now is not mixed with it."""
        if not self.composer.text.strip():
            self.composer.put_back(text)
            return
        self.controller.remember(text)
        self.show_message(f"Your message was not sent: {self.key('history')} finds it")

    def quit(self) -> None:
        self.save_draft()
        self.app.exit()

    def suspend(self) -> None:
        """Go back to the shell, until that lets the chat go on."""
        self.save_draft()
        self.app.action_suspend_process()

    # Transitions

    async def _watch_engine(self) -> None:
        """Show what changes."""
        while True:
            quick = self.controller.awaiting and not self.controller.busy
            await asyncio.sleep(1 / (QUICK_POLLS_PER_SECOND if quick else POLLS_PER_SECOND))
            await self._drain()

    async def _drain(self) -> None:
        # Without a turn there is no reply that drawing could slow down.
        if self.controller.busy and not self._budget.due():
            return
        async for transition in self.controller.poll():
            self.show(transition)
        self._questions.show()
        # The list of models shows the outcome of a download itself.
        if self.app.screen is self and (download := self.controller.take_ended_download()):
            text, error = download_outcome(download, self.key("models"))
            self.show_message(text, error=error)
        self.show_progress()

    def show(self, transition: Transition) -> None:
        """Render a transition."""
        self._notifier.see(transition)
        if isinstance(transition, ReplyStarted):
            self._draft.named()
        match transition:
            case Loaded(model, context):
                self._lines.status.update(model=short_name(model), context=context)
                self._turn_entries.end_load_failure()
                self._ready()
            case Unloaded():
                self.show_message(UNLOADED)
            case LoadFailed(message):
                self._turn_entries.show_load_failure(message)
            case ConversationShown():
                self._show_conversation(transition)
            case TurnRequested():
                self.writing.greeting = ""
                if transition.drop_after is not None:
                    self.composer.focus()
                self._turn_entries.begin(transition, self._thinking_view)
                self.show_queue()
            case MessagePutOff(taken_back):
                if taken_back is not None:
                    self._turn_entries.take_back(taken_back, self._thinking_view)
                self.show_queue()
            case TurnTakenBack(text):
                if text is not None:
                    self._give_back(as_typed(text))
                self._turn_entries.take_back(transition, self._thinking_view)
                if transition.stored is not None:
                    self._show_notices()
            case QueueReturned(text):
                self.composer.put_back(text)
                self.show_queue()
            case Notice(text):
                self._notices.append((self.controller.conversation, text))
                self.transcript.add(NoticeEntry(text))
            case Problem(text):
                self.show_message(text, error=True)
            case ProcessesLost(text):
                self.transcript.add(NoticeEntry(text))
                self.attempt(lambda: self.alone.offer(transition))
            case SettingsChanged():
                self._show_settings()
            case _:
                self._turn_entries.show(transition)
        self.show_first()
        self.show_progress()

    def _show_conversation(self, shown: ConversationShown) -> None:
        """Another conversation, or another path of this one."""
        self.writing.leave_edit()
        if shown.stored is None:
            self.transcript.show([])
        else:
            self.transcript.show(entries_of(shown.stored, self._thinking_view, self.key("retry")))
            if shown.read_only:
                notice = "Open in another window: here it can be read only."
                self.transcript.add(NoticeEntry(notice))
            self._show_notices()
        self._draft.switch()
        self.transcript.follow()
        self._send_first()
        if self.focused is self.transcript:
            self.transcript.marking.message(shown.selected)
        if self.controller.conversation is not None:
            self.find.shown(self.controller.conversation)

    def find_later(self, conversation: int, message: int, words: str) -> None:
        self.find.later(conversation, message, words)

    def _show_notices(self) -> None:
        """Show again what was said about this conversation: a reply that is not saved, say."""
        for conversation, text in self._notices:
            if conversation == self.controller.conversation:
                self.transcript.add(NoticeEntry(text))

    @property
    def _thinking_view(self) -> ThinkingView:
        return self.controller.settings.thinking_view  # pyright: ignore[reportReturnType]

    def show_message(self, text: str, *, error: bool = False) -> None:
        self._lines.show_message(text, error=error)
        self.show_progress()

    def show_queue(self) -> None:
        self._lines.show_queue(self.writing.unsent)

    # Settings

    def _show_settings(self) -> None:
        """Show the settings that hold now."""
        working_app(self).use_theme()
        self._bind_keys()
        for entry in self.transcript.entries:
            if isinstance(entry, ReplyEntry):
                entry.show_thinking(self._thinking_view)
        self.transcript.forget_layout()
