"""What is typed into the composer of the chat: sent, stored as a draft, completed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from textual.widgets import TextArea

from qwen35_chat.disk_calls import Work
from qwen35_chat.handlers.conversations import ConversationHandler
from qwen35_chat.handlers.writing import WritingHandler
from qwen35_chat.screens.completer import Completer
from qwen35_chat.screens.draft import ScreenDraft
from qwen35_chat.screens.first import FirstScreen
from qwen35_chat.screens.pointed import PointedScreen
from qwen35_chat.screens.progress_lines import ProgressLines
from qwen35_chat.screens.work import WorkQueue
from qwen35_chat.terminal_driver import signals_for_others
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.first_screen import Starts
from qwen35_chat.widgets.transcript import OPENS_TEXT
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message

DRAFT_SECONDS = 0.5  # after the last key


class TypingScreen(PointedScreen):
    """A screen with a composer.

    Attributes:
        writing, conversations: handlers of commands.
    """

    writing: WritingHandler
    conversations: ConversationHandler
    _lines: ProgressLines
    _completer: Completer
    _draft: ScreenDraft
    _sends: WorkQueue
    _first: FirstScreen

    def show_progress(self) -> None:
        """Bring the lines around the composer up to date."""
        composer = self.composer
        editing = self.writing.edit_line
        self._lines.update(composer.text, editing=editing, mode=composer.mode)

    # What handlers need of the screen

    @property
    def marked_message(self) -> int | None:
        return self.transcript.marked.message if self.transcript.marked is not None else None

    def offer_edit(self, message: Message) -> None:
        self.writing.begin_edit(message, message.content)

    def send_edit(self, message: Message, text: str) -> None:
        self.writing.send_edit(message, text)

    @contextmanager
    def terminal_released(self) -> Iterator[None]:
        failure: BaseException | None = None
        with signals_for_others(), self.app.suspend():
            try:
                yield
            except BaseException as error:  # Textual takes the terminal back only without one
                failure = error
        self.app.refresh()
        if failure is not None:
            raise failure

    # What is typed

    def to_composer(self) -> None:
        """Let keys go to the composer that would go to the messages."""
        if self.focused in (self.transcript, self._first.starts):
            self.composer.leave_vim_mode()
            self.set_focus(self.composer)

    def before_character(self, key: str) -> None:
        """A key that prints comes: it is typed, unless it is one of the marked message."""
        transcript = self.transcript
        here = self.focused is transcript
        name = transcript.command(key, prints=True) if here else None
        if here and (transcript.opening or name is not None):
            transcript.opening = transcript.opening or name in OPENS_TEXT
        else:
            self.to_composer()

    def perform_send(self, work: Work) -> None:
        self._sends.add(work, self._show_refusal)

    def send_typed(self) -> None:
        self.try_to_send(self.writing.send)

    def try_to_send(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Qwen35Error as error:
            self._show_refusal(str(error))
        self.show_progress()

    def _show_refusal(self, line: str) -> None:
        """Show why what is typed cannot be sent, until it is changed."""
        self._lines.show_message(line, error=True, typed=self.composer.text)
        self.show_progress()

    def on_composer_command_key(self, event: Composer.CommandKey) -> None:
        if event.name == "messages" and self._first.shown:
            self._first.starts.focus()
        else:
            self.action_command(event.name)

    def on_composer_mode_changed(self, _: Composer.ModeChanged) -> None:
        self.show_progress()

    def on_starts_chosen(self, event: Starts.Chosen) -> None:
        self.composer.focus()
        if (conversation := event.conversation) is not None:
            self.attempt(lambda: self.conversations.open(conversation))
            return
        draft = self.composer.text
        self.composer.set_text(event.message)
        self.attempt(self.writing.send)
        self.composer.set_text(draft)

    def on_starts_left(self, _: Starts.Left) -> None:
        self.composer.focus()

    def on_resize(self) -> None:
        self._first.update()

    def on_text_area_changed(self, _: TextArea.Changed) -> None:
        if self.composer.has_focus and not self._draft.stored:  # else a draft was put there
            self.transcript.marking.unmark()
        self.complete()
        self._draft.changed(DRAFT_SECONDS)

    def complete(self) -> None:
        """List what may follow what is typed."""
        self._completer.complete(self.composer.text, self.composer.before_cursor)

    def save_draft(self) -> None:
        """Store what is typed, if that has changed. Does not wait for it."""
        self._draft.save()
