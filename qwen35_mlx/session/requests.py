"""What may be asked of an engine, as plain values that may cross threads and processes.

Conversations and messages are named by their ids in the library.
"""

from dataclasses import dataclass

from qwen35_mlx.library.conversation import ChatSettings


@dataclass(frozen=True, slots=True)
class UseModel:
    """Load a model in place of the one that is loaded: `Loading`, then `Loaded` or `Failed`."""

    model: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Unload:
    """Give the model's memory back: `Unloaded`. The next turn loads it again."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Answer the next turns in this way: those of new conversations and of the current one."""

    settings: ChatSettings


@dataclass(frozen=True, slots=True)
class Open:
    """Go to a conversation, or to a new one (None): `Opened` or `Failed`."""

    conversation: int | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Add a user message at the end of the path, and reply to it."""

    text: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Another reply to the user message that this reply answers."""

    message: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Another version of a user message, and a reply to it. The old path stays."""

    message: int
    text: str


@dataclass(frozen=True, slots=True)
class Select:
    """Go to the path through a message: to its newest leaf. `Opened`."""

    message: int


@dataclass(frozen=True, slots=True)
class Compact:
    """Replace the oldest turns by a summary on a new path: `Opened` or `Failed`."""


Request = UseModel | Unload | Configure | Open | Send | Retry | Edit | Select | Compact
