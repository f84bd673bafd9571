"""The chat: the conversation, the composer, and the two lines about how it goes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual import events as keys
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingsMap, BindingType
from textual.widgets import TextArea

from qwen35_chat.attachments import files_below, read_text_file
from qwen35_chat.commands import keymap
from qwen35_chat.completion import commands_for, files_for, mention_before
from qwen35_chat.controller import Controller
from qwen35_chat.drawing.entries import Entry, NoticeEntry
from qwen35_chat.pace import Pace
from qwen35_chat.screens.acts import Acts
from qwen35_chat.screens.base import short_name
from qwen35_chat.screens.conversation import DEMO, DEMO_HELLO, entries_of, welcome
from qwen35_chat.screens.models import ended
from qwen35_chat.themes import use_theme
from qwen35_chat.tokens import TokenCounter
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.transcript import TranscriptView
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import (
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Loading,
    Notice,
    Opened,
    PrefillProgress,
    Titled,
    Unloaded,
)

# Often enough to look continuous, seldom enough to leave the interpreter to the model.
POLLS_PER_SECOND = 15
DRAWING_SHARE = 0.1
DRAFT_SECONDS = 0.5  # after the last key
FILES_SECONDS = 10.0  # a list of files is good for so long
SETTINGS_SECONDS = 1.0


class ChatScreen(Acts):
    """One conversation with one model. Everything starts and ends here.

    Args:
        desk: the engine is started here, once the first frame is drawn.
        demo: whether it begins with the demonstration model.
        conversation: to go on with.
        clock: seconds, for what is timed on the screen.
        ready: as for `ChatApp`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        # Where something is selected, Ctrl+C copies it first.
        Binding("ctrl+c", "interrupt", "Quit", show=False),
    ]

    def __init__(
        self,
        controller: Controller,
        *,
        demo: bool = False,
        conversation: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        ready: Callable[[], None] = lambda: None,
    ):
        super().__init__(controller, clock)
        self._ready = ready
        self.demo = demo
        self.hello = DEMO_HELLO if demo and conversation is None else ""
        self._first = conversation
        self._pace = Pace(DRAWING_SHARE)
        self._files: list[str] = []
        self._files_at: float | None = None
        self._counter = TokenCounter()
        self._draft_timer = None
        self._saved_draft: str | None = None

    def compose(self) -> ComposeResult:
        yield self.transcript
        yield self.queue_line
        yield self.completions
        yield self.activity
        yield self.composer
        yield self.status

    def on_mount(self) -> None:
        self.queue_line.display = False
        self.status.update(model=short_name(self.controller.model))
        self.bind_keys()
        self.composer.focus()
        self._welcome_or_path()
        self.composer.set_text(self._stored_draft())
        self._greet()
        self.show_cue()
        self.call_after_refresh(self._start)
        self.set_interval(1 / POLLS_PER_SECOND, self._drain)
        self.set_interval(SETTINGS_SECONDS, self._reload_settings)

    def _start(self) -> None:
        self._ready()
        self.controller.start(self._first)

    def _welcome_or_path(self) -> None:
        self.transcript.show(self._welcome() if self._first is None else [])

    def _welcome(self) -> list[Entry]:
        return welcome(self.key, demo=self.demo and self.controller.model == DEMO)

    def bind_keys(self) -> None:
        """Bind the keys of the table, as the settings remap them."""
        remapped = self.controller.settings.keys
        self._bindings = BindingsMap([Binding("ctrl+c", "interrupt", "Quit", show=False)])
        typed: dict[str, str] = {}
        quits: list[str] = []
        for key, command in keymap("chat", remapped).items():
            if command.typed:
                typed[key] = command.name
            elif command.name == "quit":
                quits.append(key)
            else:
                self._bindings.bind(
                    key,
                    f"command('{command.name}')",
                    command.title,
                    show=False,
                    # Before the composer has them, but for Esc: that closes a list first.
                    priority=key != "escape",
                )
        self.composer.typed_keys = typed
        self.app._bindings = BindingsMap(  # from wherever: a list may cover the chat
            [Binding(key, "leave", "Quit", show=False, priority=True) for key in quits]
        )
        self.transcript._bindings = BindingsMap()
        for key, command in keymap("messages", remapped).items():
            self.transcript._bindings.bind(
                key, f"screen.command('{command.name}')", command.title, show=False
            )

    def action_interrupt(self) -> None:
        """Stop the reply; with none, or for the second time, quit."""
        if self.controller.busy and not self.controller.stopping:
            self.stop()
        else:
            self.quit()

    # What happens

    async def _drain(self) -> None:
        # What the user has asked for is shown at once; only a reply can be slowed down by it.
        if self.controller.busy and not self._pace.due():
            return
        for event in self.controller.poll():
            before = (self.controller.busy, self.controller.compacting, self.controller.loading)
            started = self.controller.started is not None
            self.controller.take(event)
            self._take(event, *before, started=started)
        if download := self.controller.end_of_download() if self.app.screen is self else None:
            said, error = ended(download, self.key("models"))
            self.say(said, error=error)
        self.show_cue()

    def _take(
        self, event: Event, busy: bool, compacting: bool, loading: bool, *, started: bool
    ) -> None:
        """Show an event.

        Args:
            busy, compacting, loading, started: what held before it.
        """
        if loading and not self.controller.loading:
            self.loading_cue = ""
        match event:
            case Loading(what, fraction):
                share = "" if fraction is None else f" {fraction:.0%}"
                self.loading_cue = f"loading {short_name(what)}{share}"
            case Loaded(model, context):
                self.status.update(model=short_name(model), context=context)
                self._counter.use_model(model)
                try:
                    self.controller.keep_model()
                except Qwen35Error as error:
                    self.say(str(error), error=True)
                self._ready()
            case Unloaded():
                self.say("The model's memory was given back; the next message loads it again")
            case Opened():
                self._opened()
                if compacting:
                    self.next_waiting()
            case Notice(message):
                self.transcript.add(NoticeEntry(message))
            case Titled():
                pass
            case Failed(message) if not busy or compacting:
                if loading and not compacting:
                    self.show_not_loaded(message)
                else:
                    self.say(message, error=True)
                self._unqueue()
            case Cancelled() if compacting:
                self._unqueue()
            case PrefillProgress() if compacting:
                self._progress = event
            case PrefillProgress() | Done() | Cancelled() | Failed() if not busy:
                pass
            case _:
                self.take_turn(event, started=started)
        self.show_cue()

    def _opened(self) -> None:
        """Another conversation, or another path of this one."""
        self.leave_edit()
        stored = self.controller.stored()
        if stored is None:
            self.transcript.show(self._welcome())
        else:
            self.transcript.show(entries_of(stored, self.view_now, self.key("retry")))
            if self.controller.read_only:
                notice = "Open in another window: here it can be read only."
                self.transcript.add(NoticeEntry(notice))
        self.composer.set_text(self._stored_draft())
        self.status.update(used=self.controller.used, usage=None)
        self.transcript.follow()
        if self.focused is self.transcript:
            self.transcript.mark_message(self.mark_next)
        self.mark_next = None

    def _stored_draft(self) -> str:
        try:
            draft = self.controller.draft()
        except Qwen35Error as error:
            self.say(str(error), error=True)
            return ""
        self._saved_draft = draft
        return draft

    # What is typed

    def on_composer_sent(self, _: Composer.Sent) -> None:
        self.send_composed()

    def on_composer_step(self, event: Composer.Step) -> None:
        self.step_history(event.direction)

    async def on_composer_command(self, event: Composer.Command) -> None:
        await self.action_command(event.name)

    def on_text_area_changed(self, _: TextArea.Changed) -> None:
        self.complete()
        if self._draft_timer is not None:
            self._draft_timer.stop()
        self._draft_timer = self.set_timer(DRAFT_SECONDS, self.save_draft)

    def complete(self) -> None:
        before = self.composer.before_cursor
        choices = commands_for(before) if self.composer.text == before else []
        if not choices and (query := mention_before(before)) is not None:
            self._list_files()
            choices = files_for(before, self._files)
            if choices and query:
                self._count(choices[0].label)
        # What a whole command's name would complete to is that name.
        self.completions.show(
            [c for c in choices if c.insert.strip() != before.strip() or "/" in c.label], before
        )

    def _list_files(self) -> None:
        now = time.monotonic()
        if self._files_at is None or now - self._files_at > FILES_SECONDS:
            self._files_at = now
            self._find_files()

    @work(thread=True, exclusive=True, group="files")
    def _find_files(self) -> None:
        found = files_below(Path.cwd())
        self.app.call_from_thread(self._found_files, found)

    def _found_files(self, found: list[str]) -> None:
        if found != self._files:
            self._files = found
            self.complete()

    @work(thread=True, exclusive=True, group="count")
    def _count(self, name: str) -> None:
        try:
            hint = self._counter.describe(read_text_file(Path(name)))
        except Qwen35Error as error:
            hint = str(error).removeprefix(f"{name} ")
        self.app.call_from_thread(self.completions.hint, name, hint)

    def save_draft(self) -> None:
        """Keep what is typed; called often."""
        text = self.composer.whole + (f"\n\n{self.aside}" if self.aside else "")
        if text == self._saved_draft:
            return
        try:
            self.controller.save_draft(text)
            self._saved_draft = text
        except Qwen35Error as error:
            self.say(str(error), error=True)

    def on_key(self, event: keys.Key) -> None:
        """A letter that nothing else wants belongs to the composer."""
        if self.focused is self.transcript and event.is_printable and event.character:
            if event.key in self.transcript._bindings.key_to_bindings:
                return
            self.composer.focus()
            self.composer.insert(event.character)
            event.stop()

    def on_transcript_view_clicked(self, event: TranscriptView.Clicked) -> None:
        self.clicked(event)

    # Settings

    def _reload_settings(self) -> None:
        try:
            if self.controller.reload():
                self.settings_changed()
                self.say("The settings were read again")
        except Qwen35Error as error:
            self.say(str(error), error=True)

    def settings_changed(self) -> None:
        """Show the settings that hold now."""
        use_theme(self.app, self.controller.settings)
        self.bind_keys()
        self.view_all(self.view_now)
        self.show_cue()
