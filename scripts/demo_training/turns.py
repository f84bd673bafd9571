"""Exchanges and dialogues, as all generators produce them."""

import random
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer; a right answer contains every string in `expects`."""

    user: str
    thought: str
    answer: str
    expects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages for the chat template; the last one is from the assistant."""

    messages: list[Message]
    thinking: bool
    skill: str
    tools: list[dict[str, Any]] = field(default_factory=list)
    expects: tuple[str, ...] = ()


def casual(rng: random.Random, text: str) -> str:
    """A message as people type it: sometimes without a capital or a full stop."""
    roll = rng.random()
    if roll < 0.12 and text[-1:] in ".?":
        text = text[:-1]
    if (roll < 0.06 or roll > 0.92) and not text.startswith("I "):
        text = text[:1].lower() + text[1:]
    return text


def dialogue(
    rng: random.Random,
    turns: list[Exchange],
    skill: str,
    system: str | None = None,
    thinking: bool | None = None,
) -> Dialogue:
    """A dialogue of these exchanges; only the last keeps its thought, if thinking is on."""
    if thinking is None:
        thinking = rng.random() < 0.5
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.answer})
    messages[-1]["reasoning_content"] = turns[-1].thought if thinking else ""
    return Dialogue(messages, thinking, skill, expects=turns[-1].expects)
