"""Requests to an engine: plain values that may cross threads and processes.

Conversations and messages are given by their ids in the library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.library.conversation import ChatSettings


@dataclass(frozen=True, slots=True)
class UseModel:
    """Load a model in place of the loaded one: `Loading`, then `Loaded` or `Failed`."""

    model: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Unload:
    """Free the model's memory: `Unloaded`. The next turn loads it again."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Change the settings of the next turns, in new conversations and in the current one."""

    settings: ChatSettings


@dataclass(frozen=True, slots=True)
class Open:
    """Go to a conversation, or to a new one (None): `Opened` or `Failed`.

    Attributes:
        settings: replace the conversation's own, but for those that are None; it keeps them.
    """

    conversation: int | None = None
    settings: ChatSettings | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Add a user message at the end of the path, and reply to it."""

    text: str


@dataclass(frozen=True, slots=True)
class OfferTools:
    """Offer these functions to the model from the next turn on, in place of those before.

    Attributes:
        tools: their descriptions in JSON schema, as for `Chat`.
    """

    tools: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class SendResults:
    """Add the results of the calls at the end of the path, and reply to them."""

    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddResults:
    """Add the results of the calls at the end of the path, without a reply: no event, or `Failed`.

    A turn that is stopped among its calls leaves none of them without a result.
    """

    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Write another reply in place of this one. The old one stays in the tree.

    Attributes:
        options: of this reply alone, as `Chat.retry` takes them.
    """

    message: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Continue:
    """Write another version of a reply that begins with it, or with its thinking and a text."""

    message: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """Add another version of a user message, and reply to it. The old path stays."""

    message: int
    text: str


@dataclass(frozen=True, slots=True)
class Select:
    """Go to the path through a message, down to its newest leaf: `Opened`."""

    message: int


@dataclass(frozen=True, slots=True)
class Compact:
    """Replace the oldest turns by a summary on a new path: `Opened` or `Failed`."""


Request = (
    UseModel
    | Unload
    | Configure
    | OfferTools
    | Open
    | Send
    | SendResults
    | AddResults
    | Retry
    | Continue
    | Edit
    | Select
    | Compact
)
