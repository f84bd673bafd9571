"""The entries of the turn that is running, as its transitions change them."""

from collections.abc import Callable

from qwen35_chat.drawing.entries import NoticeEntry, ReplyEntry, ThinkingView, UserEntry
from qwen35_chat.drawing.messages import entries_of, with_retry
from qwen35_chat.drawing.tool_entries import ToolEntry
from qwen35_chat.tools.calling import CallEnded
from qwen35_chat.transitions import (
    ReplyStarted,
    ThinkingEnded,
    Transition,
    TurnContinued,
    TurnEnded,
    TurnRequested,
    TurnTakenBack,
)
from qwen35_chat.widgets.transcript import TranscriptView
from qwen35_mlx.session.events import Answer, Thinking, ToolCall


class TurnEntries:
    """Adds a message and its reply to a transcript, and lets the reply grow.

    Args:
        key: returns the first key of a command, for people.
        model: returns the name of the model that replies, for people.
    """

    def __init__(
        self, transcript: TranscriptView, key: Callable[[str], str], model: Callable[[], str]
    ):
        self._transcript = transcript
        self._key = key
        self._model = model
        self._user: UserEntry | None = None  # of the turn, if it has a new message
        self._reply: ReplyEntry | None = None
        self._result: ToolEntry | None = None  # the last one, if the reply answers it
        self._view: ThinkingView = "collapsed"
        self._failure: NoticeEntry | None = None  # why there is no model

    def begin(self, requested: TurnRequested, view: ThinkingView) -> None:
        """Show a turn that was requested. `view`: how thinking is shown."""
        transcript = self._transcript
        dropped = requested.drop_from or requested.drop_after
        if dropped is not None:
            entries = transcript.entries
            at = next((n for n, e in enumerate(entries) if e.message == dropped), len(entries))
            transcript.show(entries[: at if requested.drop_from else at + 1])
        self._user = UserEntry(requested.text) if requested.text is not None else None
        if self._user is not None:
            transcript.add(self._user)
        self._view, self._result = view, None
        self._begin_reply()
        transcript.follow()

    def show(self, transition: Transition) -> None:
        """Render a transition of the turn; others are ignored."""
        match transition:
            case CallEnded(name, text, seconds):
                self._result = ToolEntry(name, text, seconds=seconds)
                self._transcript.add(self._result)
                return
            case TurnContinued():
                self._begin_reply()
                return
            case _ if self._reply is None:
                return
            case _:
                self._show_reply(transition, self._reply)
        self._transcript.lay_out()

    def _begin_reply(self) -> None:
        self._reply = ReplyEntry(complete=False, view=self._view, model=self._model())
        self._transcript.add(self._reply)

    def _show_reply(self, transition: Transition, reply: ReplyEntry) -> None:
        match transition:
            case ReplyStarted():
                self._place(reply, transition)
            case Thinking(text):
                reply.add_thinking(text)
            case ThinkingEnded(thinking_seconds):
                reply.end_thinking(thinking_seconds)
            case Answer(text):
                reply.add_answer(text)
            case ToolCall(name, arguments):
                reply.add_call(name, arguments)
            case TurnEnded(note, error, offer_retry, usage):
                if offer_retry:
                    note = with_retry(note, self._key("retry"))
                reply.finish(note, error=error, seconds=usage.seconds if usage else None)
                self._user = self._reply = None
            case _:
                pass

    def take_back(self, turn: TurnTakenBack, view: ThinkingView) -> None:
        """Return to what was shown before the turn."""
        for entry in (self._reply, self._user):
            if entry is not None:
                self._transcript.drop(entry)
        self._user = self._reply = None
        if turn.stored is not None:
            self._transcript.show(entries_of(turn.stored, view, self._key("retry")))
        if turn.load_failed:
            self.show_load_failure(turn.error)
        elif turn.error:
            self._transcript.add(NoticeEntry(turn.error, error=True))

    def show_load_failure(self, message: str) -> None:
        """Show why there is no model and what to do, unless that is the last entry already."""
        text = f"The model could not be loaded. {message.rstrip('.')}. "
        text += f"{self._key('models')} chooses another."
        last = self._transcript.entries[-1] if self._transcript.entries else None
        if not (isinstance(last, NoticeEntry) and last.text == text):
            self._failure = NoticeEntry(text, error=True)
            self._transcript.add(self._failure)

    def end_load_failure(self) -> None:
        """Leave out why there was no model, since there is one."""
        for entry in [e for e in self._transcript.entries if e is self._failure]:
            self._transcript.drop(entry)
        self._failure = None

    def _place(self, reply: ReplyEntry, started: ReplyStarted) -> None:
        """Tie the entries to their messages in the library."""
        reply.message = started.reply
        question = self._user or self._result
        if question is not None:
            question.message = started.user
        self._result = None
        versions = {started.user: started.user_version, started.reply: started.reply_version}
        for entry in self._transcript.entries[-4:]:
            version = versions.get(entry.message or 0)
            if version is not None and version != entry.version:
                entry.version = version
                entry.invalidate()
