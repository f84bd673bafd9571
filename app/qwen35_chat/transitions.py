"""What changes in a window: made by the controller, rendered by the screen and by plain mode.

Events of the engine that need no interpretation are transitions as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from qwen35_chat.tools.calling import CallEnded
from qwen35_mlx.library.conversation import Conversation, FinishReason, Usage
from qwen35_mlx.session.events import (
    Answer,
    DraftCounts,
    Loaded,
    Loading,
    Notice,
    PrefillProgress,
    ProcessesLost,
    Thinking,
    ToolCall,
    Unloaded,
)

# What is shown below a reply that has ended by itself.
END_NOTES: Mapping[FinishReason, str] = {
    "stop": "",
    "length": "Cut short: the reply reached the limit of tokens. /continue goes on.",
    "tool_calls": "The model asks for a tool; none was run.",
    "repetition": "Ended: the reply went on repeating itself. Write it again, or ask differently.",
}


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded while no turn was running."""

    message: str


@dataclass(frozen=True, slots=True)
class ConversationShown:
    """A conversation, or another path of it, is the current one.

    Attributes:
        stored: as the library has it; None for a new one.
        read_only: another window holds it.
        selected: the message whose path was selected, if one was.
    """

    stored: Conversation | None
    read_only: bool = False
    selected: int | None = None


@dataclass(frozen=True, slots=True)
class TurnRequested:
    """A turn was requested of the engine.

    Attributes:
        text: the new user message; None for another reply to a stored message.
        drop_from: this message and what follows it leave the view.
        drop_after: what follows this message leaves the view.
    """

    text: str | None
    drop_from: int | None = None
    drop_after: int | None = None


@dataclass(frozen=True, slots=True)
class TurnContinued:
    """The results of tools were sent, and another reply follows."""


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """The turn's messages are in the library.

    Attributes:
        user, reply: their ids.
        user_version, reply_version: which of how many versions each is, from 1.
    """

    user: int
    reply: int
    user_version: tuple[int, int] = (1, 1)
    reply_version: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class ThinkingEnded:
    """The thinking of the reply is complete after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn has ended, and its reply stays.

    Attributes:
        note: a line below the reply; "" for none.
        error: the turn failed.
        offer_retry: the note should name the command for another reply.
        usage, accepted: of a turn that was not cut off.
    """

    note: str = ""
    error: bool = False
    offer_retry: bool = False
    usage: Usage | None = None
    accepted: DraftCounts | None = None


@dataclass(frozen=True, slots=True)
class TurnTakenBack:
    """The turn ended before anything of it was stored; the view returns to what was before.

    Attributes:
        text: the user message to give back; None if there was none.
        error: why it never began; "" if it was stopped.
        load_failed: the error is that of loading the model.
        stored: the conversation; None for a new one.
    """

    text: str | None
    error: str = ""
    load_failed: bool = False
    stored: Conversation | None = None


@dataclass(frozen=True, slots=True)
class MessagePutOff:
    """A message waits in the queue for a summary of the oldest turns, which makes room for it.

    Attributes:
        taken_back: its turn, if that was requested before; None if not.
    """

    taken_back: TurnTakenBack | None = None


@dataclass(frozen=True, slots=True)
class QueueReturned:
    """Queued messages that will not be sent, in one text to give back."""

    text: str


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """A load or a summary was stopped."""


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Other settings hold from now on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One line about something that went wrong apart from a turn."""

    message: str


Transition = (
    Loading
    | Loaded
    | Unloaded
    | LoadFailed
    | ConversationShown
    | TurnRequested
    | MessagePutOff
    | TurnContinued
    | ReplyStarted
    | PrefillProgress
    | Thinking
    | ThinkingEnded
    | Answer
    | ToolCall
    | CallEnded
    | TurnEnded
    | TurnTakenBack
    | QueueReturned
    | RequestCancelled
    | SettingsChanged
    | Notice
    | ProcessesLost
    | Problem
)
