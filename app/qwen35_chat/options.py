"""What a command line asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """A model and how to talk to it.

    Attributes:
        model, revision: as for `qwen35_mlx.load`.
        chat: keyword arguments for `qwen35_mlx.Chat`.
        named: whether the command line names the model.
        turn: keyword arguments for every `Chat.send`.
    """

    model: str
    revision: str | None = None
    named: bool = True
    chat: Mapping[str, Any] = field(default_factory=dict)
    turn: Mapping[str, Any] = field(default_factory=dict)
