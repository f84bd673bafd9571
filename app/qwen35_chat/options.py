"""The options of the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.generation.sampling_parameters import RANGES
from qwen35_mlx.json_text import JsonTextError, read_json
from qwen35_mlx.library.conversation import ChatSettings


def template_value(text: str) -> Any:
    """The value of a template argument as a user types it: JSON, or else the text itself."""
    try:
        return read_json(text)
    except JsonTextError:
        return text


@dataclass(frozen=True, slots=True)
class Start:
    """What a chat begins with.

    Attributes:
        conversation: its id in the library; None for a new one.
        message: to send at once; "" for none.
        choose: whether the stored conversations are listed first.
        settings: of the command line, for the stored conversation that is gone on with.
    """

    conversation: int | None = None
    message: str = ""
    choose: bool = False
    settings: ChatSettings | None = None


EMPTY = Start()


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """A model and how to chat with it. The options that were not given are None.

    Attributes:
        model, revision: as for `qwen35_mlx.load`.
        model_given: whether the command line names the model; if not, `model` is the default.
        chat: keyword arguments of `qwen35_mlx.Chat`: system, thinking, sampling values and so on.
        turn: keyword arguments of every `Chat.send`.
        settings: of the settings file, for what `chat` and `turn` leave open; None for nothing.
        load: further keyword arguments of `qwen35_mlx.load`.
        mtp: how many tokens are guessed: "auto", "off", or a number from 1 to 6.
        mcp_config: a file in place of the settings' `mcp.json`; None for that.
        allow_tools: names of the tools that run without a question.
        tools_folder: that the built-in tools read; None for that of the settings.
        hosts: a file with the machines that run the model together; None for this one alone.
        resume: the stored conversation to continue, by id or title; "" for the last one.
    """

    model: str
    revision: str | None = None
    model_given: bool = True
    chat: Mapping[str, Any] = field(default_factory=dict)
    turn: Mapping[str, Any] = field(default_factory=dict)
    settings: ChatSettings | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    mtp: str | None = None
    mcp_config: str | None = None
    tools_folder: str | None = None
    allow_tools: tuple[str, ...] = ()
    resume: str | None = None
    hosts: str | None = None

    @property
    def chat_settings(self) -> ChatSettings:
        """The part of the options that the engine uses."""
        return ChatSettings(
            system=self.chat.get("system"),
            thinking=self.chat.get("thinking"),
            max_tokens=self.turn.get("max_tokens"),
            seed=self.turn.get("seed"),
            sampling=self._sampling(),
            template_arguments=self.chat.get("template_arguments") or {},
            thinking_budget=self.chat.get("thinking_budget"),
            repetition_guard=self.chat.get("repetition_guard"),
        )

    @property
    def setting_overrides(self) -> dict[str, object]:
        """The options that override settings of the settings file, by their names there."""
        overrides = {
            "model": self.model if self.model_given else None,
            "system": self.chat.get("system"),
            "thinking": self._switch("thinking"),
            "thinking_budget": self.chat.get("thinking_budget"),
            "repetition_guard": self._switch("repetition_guard"),
            "template_arguments": self.chat.get("template_arguments"),
            "max_tokens": self.turn.get("max_tokens"),
            "mtp": self.mtp,
            "tools_folder": self.tools_folder,
            "sampling": self._sampling() or None,
        }
        return {name: value for name, value in overrides.items() if value is not None}

    def _sampling(self) -> dict[str, float | None]:
        return {name: self.chat[name] for name in RANGES if self.chat.get(name) is not None}

    def _switch(self, name: str) -> str | None:
        on = self.chat.get(name)
        return None if on is None else "on" if on else "off"
