"""What happens during a turn, as plain values that may cross threads and processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.library.conversation import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Loading:
    """A model is being fetched or read. `fraction` is None while it cannot be known."""

    what: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is ready."""

    model: str
    context: int


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The model's memory was given back."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation is the current one; its messages are read from the library.

    Attributes:
        conversation: its id; None for a new one, which gets an id with its first message.
        read_only: another window holds it; turns are refused.
    """

    conversation: int | None
    title: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """How long the current conversation is, which takes a moment and a model to find out.

    Attributes:
        used: tokens of its rendering.
        cached: how many of them are in memory or on disk and need no prefill.
    """

    conversation: int | None
    used: int
    cached: int


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The user's message is saved, and a reply to it begins. Ids as in the library."""

    conversation: int
    user: int
    reply: int


@dataclass(frozen=True, slots=True)
class Titled:
    """A conversation got its title."""

    conversation: int
    title: str


@dataclass(frozen=True, slots=True)
class Notice:
    """One line that the user should see: a state was skipped, evicted or rebuilt, say."""

    message: str


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done` of `total` prompt tokens are in the cache; `cached` of them were from the start."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Thinking:
    """The next piece of the reply's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The next piece of the reply's answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Written:
    """The reply has `tokens` by now; the last of them gave no text yet.

    It belongs to a tool call that is not complete, say: what may take long and must not be silent.
    """

    tokens: int


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call that the model asks for."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The turn has ended by itself; `message` is the reply as chat templates take it."""

    finish_reason: FinishReason
    usage: Usage
    message: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The turn was stopped; what was said so far is kept."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn (or loading) ended in an error; `message` is one line for the user."""

    message: str


TurnEvent = (
    TurnStarted | Titled | PrefillProgress | Thinking | Answer | Written | ToolCall | Notice | Done
)
Event = Loading | Loaded | Unloaded | Opened | Measured | TurnEvent | Cancelled | Failed
