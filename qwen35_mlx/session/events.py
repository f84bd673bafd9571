"""Events of a model, a conversation and a turn: plain values that may cross threads and processes.

`Thinking`, `Answer` and `ToolCall` come from the reply parser as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qwen35_mlx.library.conversation import Conversation, FinishReason, Usage
from qwen35_mlx.text.reply import Answer as Answer
from qwen35_mlx.text.reply import ReplyContent
from qwen35_mlx.text.reply import Thinking as Thinking
from qwen35_mlx.text.reply import ToolCall as ToolCall


@dataclass(frozen=True, slots=True)
class Loading:
    """A model is being downloaded or read. `fraction` is None while it is unknown."""

    what: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """A request waits for others; after `place` - 1 of them it begins."""

    place: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is ready.

    Attributes:
        template_arguments: names of those that its chat template reads.
    """

    model: str
    context: int
    template_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The model's memory was freed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation has become the current one. Its messages are in the library.

    Attributes:
        conversation: its id; None for a new one, which gets an id with its first message.
        read_only: another window has it open, and turns are refused.
        stored: all of it, where it was just read from the library; else it has to be read there.
    """

    conversation: int | None
    title: str = ""
    read_only: bool = False
    stored: Conversation | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Measured:
    """The length of the current conversation. Measuring takes a moment and a loaded model.

    Attributes:
        conversation: its id; None if it is not in the library.
        used: tokens of its rendering.
        cached: how many of them are in the prompt cache and need no prefill.
    """

    conversation: int | None
    used: int
    cached: int


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The user's message is saved, and a reply to it begins.

    Attributes:
        conversation, user, reply: ids in the library, of the conversation and of both messages.
    """

    conversation: int
    user: int
    reply: int


@dataclass(frozen=True, slots=True)
class Titled:
    """A conversation has got its title."""

    conversation: int
    title: str


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for the user: a stored state was skipped, evicted or rebuilt, for instance."""

    message: str


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done` of `total` prompt tokens are in the cache; `cached` of them were there before."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Written:
    """The reply has `tokens` tokens, and the last one gave no text yet.

    This shows progress while a long tool call is being written, for instance.
    """

    tokens: int


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """What came of guessed tokens in a reply.

    Attributes:
        passes: of the network, with drafts.
        drafted: tokens that were guessed in them.
        accepted: those that the network would have chosen too.
        speedup: how many times as fast as without drafts, by the clock; None if passes without
            drafts were not timed, or those with drafts were too few to time.
    """

    passes: int
    drafted: int
    accepted: int
    speedup: float | None = None

    def __str__(self) -> str:
        """For a status line: averages of a pass."""
        accepted, drafted = self.accepted / self.passes, self.drafted / self.passes
        line = f"{accepted:.1f} of {drafted:.1f} drafts accepted a pass"
        return line if self.speedup is None else f"{line}, {self.speedup:.1f}x as fast"


@dataclass(frozen=True, slots=True)
class Done:
    """The turn is complete.

    Attributes:
        message: the reply as chat templates take it.
        drafts: None if no pass had any.
        stop: the stop string that ended the reply; None if none did.
    """

    finish_reason: FinishReason
    usage: Usage
    message: Mapping[str, Any] = field(repr=False)
    drafts: DraftCounts | None = None
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The turn was cancelled; the reply so far is kept."""


# The request itself is at fault; its prompt fills the context or the memory; its conversation is
# open elsewhere; another process is lost that runs the model; anything else.
FailureKind = Literal["invalid", "too_long", "busy", "lost", "internal"]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended in an error; `message` is one line for the user."""

    message: str
    kind: FailureKind = "internal"


@dataclass(frozen=True, slots=True)
class ProcessesJoined:
    """Several processes run the models of this engine.

    Attributes:
        count: of them, this one included.
        memory: bytes of the machine of one of them, the smallest; those on one machine share it.
        pipeline: whether each has whole layers, and not a part of every layer.
    """

    count: int
    memory: int
    pipeline: bool = False


@dataclass(frozen=True, slots=True)
class ProcessesLost:
    """A process is lost that runs the model with this one; this engine cannot go on.

    Attributes:
        message: one line for the user, which names it.
        fits: whether the model fits into this machine alone.
    """

    message: str
    fits: bool


@dataclass(frozen=True, slots=True)
class Reply(ReplyContent):
    """A whole reply: `Model.generate` returns it.

        reply = model.generate([{"role": "user", "content": "What is 17 + 25?"}])
        print(reply.text, f"({reply.usage.reply_tokens} tokens)")

    Attributes:
        text: the answer.
        thinking: "" if there was none.
        tool_calls: in the order in which the model wrote them.
        drafts: None if no pass had any.
    """

    usage: Usage
    finish_reason: FinishReason
    drafts: DraftCounts | None = None


TurnEvent = (
    TurnStarted | Titled | PrefillProgress | Thinking | Answer | Written | ToolCall | Notice | Done
)
Event = (
    Queued
    | Loading
    | Loaded
    | Unloaded
    | Opened
    | Measured
    | TurnEvent
    | Cancelled
    | Failed
    | ProcessesJoined
    | ProcessesLost
)
