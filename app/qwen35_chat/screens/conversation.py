"""Turns on the screen: what is sent, how the reply comes in, and how it ends."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from qwen35_chat.controller import END_NOTES
from qwen35_chat.drawing.entries import Entry, NoticeEntry, ReplyEntry, ThinkingView, UserEntry
from qwen35_chat.screens.base import ChatBase
from qwen35_chat.widgets.status import clock_time, prefill_parts
from qwen35_mlx import __version__
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    PrefillProgress,
    Thinking,
    ToolCall,
    TurnStarted,
)

DEMO_HELLO = "Hello! Who are you?"
DEMO = "demo"
DEMO_WELCOME = (
    "This is a small demonstration model that came with the package. It shows how everything "
    "works, and knows very little. {models} finds one for this machine."
)


def welcome(key: Callable[..., str], *, demo: bool) -> list[Entry]:
    """What an empty conversation begins with. `key` gives a command's keys, at most so many."""
    parts = [f"qwen35-chat {__version__}"]
    if demo:
        parts.append(DEMO_WELCOME.format(models=key("models")))
    parts.append(
        f"{key('send')} sends, {key('newline', 2)} begins a new line.\n"
        f"{key('sessions')} finds earlier conversations, {key('help')} lists all keys."
    )
    return [NoticeEntry("\n\n".join(parts))]


def entries_of(
    stored: Conversation, view: ThinkingView, retry: str, after: int | None = None
) -> list[Entry]:
    """The selected path as it is shown; with `after`, only what follows that message."""
    entries: list[Entry] = []
    for message in stored.path():
        if after is not None and message.id <= after:
            continue
        entries.append(entry_of(message, stored.position(message.id), view, retry))
    return entries


def entry_of(message: Message, position: tuple[int, int], view: ThinkingView, retry: str) -> Entry:
    """One message as it is shown."""
    if message.role == "user":
        return UserEntry(message.content, message.id, position)
    if message.role != "assistant":
        return NoticeEntry(f"{message.role}: {message.content}")
    note, error = _end_note(message, retry)
    calls = [_call(call) for call in message.tool_calls]
    return ReplyEntry(
        thinking=message.thinking,
        answer=message.content,
        calls=calls,
        seconds=message.thinking_seconds,
        note=note,
        error=error,
        view=view,
        message=message.id,
        siblings=position,
    )


def _end_note(message: Message, retry: str) -> tuple[str, bool]:
    match message.state:
        case "partial":
            return f"Cut off: the app ended while this was written. {retry} asks again.", False
        case "cancelled":
            return "Stopped." if not message.empty else f"Stopped. {retry} asks again.", False
        case "failed":
            return failed_note(message.error, retry), True
        case _:
            return END_NOTES.get(message.finish_reason or "stop", ""), False


def failed_note(message: str, retry: str) -> str:
    return f"Error: {message.rstrip('.')}. {retry} asks again."


def _call(call: Any) -> tuple[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    return str(function.get("name", "")), arguments if isinstance(arguments, dict) else {
        "arguments": arguments
    }


class Turns(ChatBase):
    """The part of the chat screen that a turn goes through."""

    _asked: UserEntry | None = None
    _reply: ReplyEntry | None = None
    _sent = ""  # to be given back if the turn never begins
    _doing: Literal["waiting", "reading", "thinking", "writing"] = "waiting"
    _progress: PrefillProgress | None = None
    _reading_since: float | None = None
    _thinking_since: float | None = None
    _first_piece: float | None = None

    # Asking

    def begin_summary(self) -> None:
        """Show that the engine was asked to sum up the oldest turns."""
        self._doing, self._progress = "waiting", None
        self.show_cue()

    def send(self, text: str) -> None:
        """Ask the engine, and show it."""
        self.controller.send(text)
        self.begin_turn(text, asked=UserEntry(text))

    def begin_turn(self, text: str, *, asked: UserEntry | None) -> None:
        """Show a turn that the engine was asked for; `asked` None if its message is there."""
        self.hello = ""
        self._sent = text
        self._asked = asked
        if asked is not None:
            self.transcript.add(asked)
        self._reply = ReplyEntry(complete=False, view=self.view_now)
        self.transcript.add(self._reply)
        self._doing = "waiting"
        self._progress = self._reading_since = self._thinking_since = self._first_piece = None
        self.transcript.follow()
        self.show_cue()

    def cut_after(self, message: int | None, *, including: bool) -> None:
        """Take what follows a message off the screen; it stays in the library."""
        entries = self.transcript.entries
        at = next((n for n, e in enumerate(entries) if e.message == message), len(entries))
        self.transcript.show(entries[: at if including else at + 1])

    # The reply

    def take_turn(self, event: Event, *, started: bool) -> None:
        """What the engine says about the turn that runs."""
        reply = self._reply
        if reply is None:
            return
        match event:
            case TurnStarted(_, user, message):
                reply.message = message
                if self._asked is not None:
                    self._asked.message = user
                self._place()
            case PrefillProgress():
                self._doing = "reading"
                self._reading_since = self._since(self._reading_since)
                self._progress = event
            case Thinking(text):
                self._think(reply, text)
            case Answer(text):
                self._end_thinking(reply)
                self._first_piece = self._since(self._first_piece)
                self._doing = "writing"
                reply.say(text)
            case ToolCall(name, arguments):
                self._end_thinking(reply)
                reply.call(name, arguments)
            case Done(reason, _):
                self._end(END_NOTES[reason])
                self.next_waiting()
            case Cancelled():
                if started or not reply.said_nothing:
                    retry = f" {self.key('retry')} asks again." if reply.said_nothing else ""
                    self._end(f"Stopped.{retry}")
                    self._unqueue()
                else:
                    self._take_back("")
            case Failed(message):
                if started or not reply.said_nothing:
                    self._end(failed_note(message, self.key("retry")), error=True)
                    self._unqueue()
                else:
                    self._take_back(message)
            case _:
                pass
        self.transcript.settle()

    def _since(self, moment: float | None) -> float:
        """A moment that was noted before, or else now."""
        return self.clock() if moment is None else moment

    def _think(self, reply: ReplyEntry, text: str) -> None:
        if not reply.thinking:
            text = text.lstrip()
        if not text:
            return
        self._first_piece = self._since(self._first_piece)
        self._thinking_since = self._since(self._thinking_since)
        self._doing = "thinking"
        reply.think(text)

    def _end_thinking(self, reply: ReplyEntry) -> None:
        if self._thinking_since is not None and reply.seconds is None:
            reply.seconds = self.clock() - self._thinking_since
            reply.touch()

    def _end(self, note: str, *, error: bool = False) -> None:
        if self._reply is not None:
            self._end_thinking(self._reply)
            self._reply.finish(note, error=error)
            if self._reply.message is not None:
                self._place()
        self._asked = self._reply = None
        self._sent = ""

    def _place(self) -> None:
        """Show which version of how many the last message and its reply are."""
        for entry in self.transcript.entries[-4:]:
            if entry.message is None:
                continue
            with suppress(Qwen35Error):  # not stored
                position = self.controller.library.position(entry.message)
                if position != entry.siblings:
                    entry.siblings = position
                    entry.touch()

    def next_waiting(self) -> None:
        """Send what waits for the end of a turn."""
        if self.controller.queue:
            text = self.controller.queue.pop(0)
            self.show_queue()
            self.send(text)

    def _unqueue(self) -> None:
        """Back into the composer with what waited: its turn may never come."""
        if self.controller.queue:
            self.composer.put_back("\n\n".join(self.controller.queue))
            self.controller.queue.clear()
            self.show_queue()

    def _take_back(self, message: str) -> None:
        """A turn that never began: its message goes back to where it came from."""
        text, asked, reply = self._sent, self._asked, self._reply
        self._asked = self._reply = None
        self._sent = ""
        if reply is not None:
            self.transcript.drop(reply)
        if asked is not None:
            self.transcript.drop(asked)
        self._unqueue()
        if asked is not None and text:
            self.composer.put_back(text)
        if self.controller.conversation is not None:
            stored = self.controller.stored()
            if stored is not None:
                self.transcript.show(entries_of(stored, self.view_now, self.key("retry")))
        if self.controller.failed:
            self.show_not_loaded(message)
        elif message:
            self.transcript.add(NoticeEntry(message, error=True))

    def show_not_loaded(self, message: str) -> None:
        """Say, once, why there is no model, and what to do."""
        said = f"The model could not be loaded. {message.rstrip('.')}. "
        said += f"{self.key('models')} chooses another."
        last = self.transcript.entries[-1] if self.transcript.entries else None
        if not (isinstance(last, NoticeEntry) and last.text == said):
            self.transcript.add(NoticeEntry(said, error=True))

    # How it goes

    def turn_parts(self) -> list[str]:
        now = self.clock()
        if self.controller.compacting:
            read = self._progress
            share = f"{read.done / max(read.total, 1):.0%}" if read is not None else ""
            return ["Summing up the oldest turns", f"read {share}" if share else ""]
        if self._doing == "reading" and self._progress is not None:
            return prefill_parts(self._progress, now - self._since(self._reading_since))
        if self._doing == "thinking":
            return ["Thinking", clock_time(now - self._since(self._thinking_since))]
        if self._doing == "writing":
            return ["Writing"]
        return ["Waiting" if self.controller.loaded else "Waiting for the model"]

    def live_rate(self) -> float:
        """Pieces a second, which are about tokens; 0 if no reply is being written."""
        if not self.controller.busy or self._first_piece is None or self.controller.pieces < 2:
            return 0.0
        seconds = self.clock() - self._first_piece
        return self.controller.pieces / seconds if seconds > 0.2 else 0.0
