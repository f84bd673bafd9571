"""The turn that is running, as far as its events have arrived."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from qwen35_chat.time_left import TimeLeft
from qwen35_chat.tools.calling import Calling
from qwen35_chat.transitions import ThinkingEnded, Transition
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.session.events import Answer, PrefillProgress, Thinking, ToolCall

Phase = Literal["waiting", "reading", "thinking", "writing"]
SHORTEST_RATE = 0.2  # seconds of text, before which a rate would be noise


@dataclass(slots=True)
class RunningTurn:
    """A turn, or a summary of the oldest turns, from its request to its end.

    Moments are seconds on `clock`.

    Attributes:
        clock: the present moment.
        text: the new user message; None for another reply to a stored message.
        summary: the oldest turns are being replaced by a summary.
        automatic: this makes room for a message, which is sent in any case.
        makes_room: the message is sent again after a summary if its prompt is too long.
        results: of tools, that are sent instead of a message; empty for none.
        rounds: how many replies to the user's message have called tools before.
        calls: of the reply so far.
        calling: the calls that are being run now, between two replies; None during a reply.
        thought: seconds of thinking that the reply begins with; None for none.
        used_before: tokens of the conversation before it.
        reply: its id in the library, once the messages of the turn are there.
        stopping: it is being cancelled.
        blank: the reply has no visible text and no tool call yet.
        progress: the latest of the prefill.
        written: tokens of the text that is not shown: a call, or a part of the summary.
        pieces: how many pieces of text have arrived, about one a token.
        reading_left: until the prefill has ended.
        thinking_since: when the first visible thinking arrived.
        text_since: when the first visible text arrived.
        thinking_seconds: how long the thinking took, once it has ended.
    """

    clock: Callable[[], float]
    text: str | None = None
    summary: bool = False
    automatic: bool = False
    makes_room: bool = False
    results: tuple[str, ...] = ()
    rounds: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    calling: Calling | None = None
    thought: float | None = None
    used_before: int = 0
    reply: int | None = None
    stopping: bool = False
    blank: bool = True
    phase: Phase = "waiting"
    progress: PrefillProgress | None = None
    written: int = 0
    pieces: int = 0
    thinking_since: float | None = None
    text_since: float | None = None
    thinking_seconds: float | None = None
    _answering: bool = False
    reading_left: TimeLeft = field(init=False)

    def __post_init__(self) -> None:
        self.reading_left = TimeLeft(self.clock)

    @property
    def absent(self) -> bool:
        """The library has nothing of it, and neither has the view, so that it can be taken back."""
        return not self.summary and self.reply is None and self.blank

    def left_out(self, stored: Conversation | None) -> bool:
        """Whether the library has left the turn, since its reply was empty when it ended.

        Args:
            stored: the conversation as it is then.
        """
        if self.absent:
            return True
        if self.reply is None or self.results or stored is None:
            return False
        return all(message.id != self.reply for message in stored.path())

    def read(self, progress: PrefillProgress) -> list[Transition]:
        """Take in progress of the prefill."""
        self.phase, self.progress, self.written = "reading", progress, 0
        self.reading_left.report(progress.done, progress.total)
        return [progress]

    def think(self, text: str) -> list[Transition]:
        """Take in thinking. White space before its first word is dropped."""
        if self.thinking_since is None:
            text = text.lstrip()
        if not text:
            return []
        self.phase, self.blank = "thinking", False
        self._text_arrives()
        if self.thinking_since is None:
            self.thinking_since = self.clock()
        return [Thinking(text)]

    def answer(self, text: str) -> list[Transition]:
        """Take in a piece of the answer. Line breaks before its first word are dropped."""
        ended = self.end_thinking()
        self.phase = "writing"
        self._text_arrives()
        if not self._answering:
            text = text.lstrip("\n")
        if not text:
            return ended
        self._answering = True
        self.blank = self.blank and not text.strip()
        return [*ended, Answer(text)]

    def call(self, call: ToolCall) -> list[Transition]:
        """Take in a tool call."""
        self.blank = False
        self.calls.append(call)
        return [*self.end_thinking(), call]

    @property
    def thought_of(self) -> int | None:
        """The reply, if it has any thinking of this turn."""
        return None if self.thinking_since is None else self.reply

    def end_thinking(self, stored: float | None = None) -> list[Transition]:
        """End the thinking, if it goes on.

        Args:
            stored: the seconds that the library has of it, since the reply has ended. They may
                differ by the time that events took to arrive, and are what is shown later.
        """
        if self.thinking_since is None:
            return []
        if stored is not None and stored != self.thinking_seconds:
            self.thinking_seconds = stored
        elif self.thinking_seconds is None:
            self.thinking_seconds = (self.thought or 0.0) + self.clock() - self.thinking_since
        else:
            return []
        return [ThinkingEnded(self.thinking_seconds)]

    def rate(self) -> float:
        """Pieces of text a second, roughly tokens; 0 while there is too little text."""
        if self.text_since is None or self.pieces < 2:
            return 0.0
        seconds = self.clock() - self.text_since
        return self.pieces / seconds if seconds > SHORTEST_RATE else 0.0

    def _text_arrives(self) -> None:
        if self.text_since is None:
            self.text_since = self.clock()
