"""What a command line asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.library.conversation import ChatSettings


@dataclass(frozen=True, slots=True)
class Options:
    """A model and how to talk to it.

    Attributes:
        model, revision: as for `qwen35_mlx.load`.
        chat: keyword arguments for `qwen35_mlx.Chat`.
        named: whether the command line names the model.
        turn: keyword arguments for every `Chat.send`.
        load: further keyword arguments for `qwen35_mlx.load`.
        resume: a stored conversation to go on with, by id or title; "" for the last one.
    """

    model: str
    revision: str | None = None
    named: bool = True
    chat: Mapping[str, Any] = field(default_factory=dict)
    turn: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    resume: str | None = None

    @property
    def settings(self) -> ChatSettings:
        """The same for an engine."""
        sampling = {name: value for name, value in self.chat.items() if name not in _NO_SAMPLING}
        return ChatSettings(
            system=self.chat.get("system"),
            thinking=self.chat.get("thinking"),
            max_tokens=self.turn.get("max_tokens"),
            seed=self.turn.get("seed"),
            sampling=sampling,
        )


_NO_SAMPLING = ("system", "thinking")
