"""The common currency of the generators: a turn and a conversation."""

import random
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; `expects` are strings a right answer must contain."""

    user: str
    thought: str
    answer: str
    expects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the chat-template form; the last one is the assistant's."""

    messages: list[Message]
    thinking: bool
    skill: str
    tools: list[dict[str, Any]] = field(default_factory=list)
    expects: tuple[str, ...] = ()


def casual(rng: random.Random, text: str) -> str:
    """Type a message the way people do: sometimes no capital, sometimes no full stop."""
    roll = rng.random()
    if roll < 0.12 and text[-1:] in ".?":
        text = text[:-1]
    if (roll < 0.06 or roll > 0.92) and not text.startswith("I "):
        text = text[:1].lower() + text[1:]
    return text


def conversation(
    rng: random.Random,
    turns: list[Turn],
    skill: str,
    system: str | None = None,
    thinking: bool | None = None,
) -> Conversation:
    """Chain turns; only the last keeps its thought (when thinking is on)."""
    if thinking is None:
        thinking = rng.random() < 0.5
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.answer})
    messages[-1]["reasoning_content"] = turns[-1].thought if thinking else ""
    return Conversation(messages, thinking, skill, expects=turns[-1].expects)
