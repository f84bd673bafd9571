"""Questions for the benchmark of drafts, by task. Held out from the training of the demo model."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.session.model import Model
from scripts.demo_training import arithmetic, definitions, dialogues, needle, tools, words
from scripts.demo_training.evaluate import HELD_OUT, needle_questions, recall_questions
from scripts.demo_training.turns import Dialogue, Message, dialogue

NEEDLE_TOKENS = 512  # of a text with a detail to find
TURNS_BETWEEN = 4  # a fact and the question for it
EDITED_SENTENCES = 12
EDIT = "Correct the mistakes in this text:\n\n"


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that ends in a question.

    Attributes:
        reply: is given, whatever the model would write; empty if the model replies.
    """

    messages: list[Message]
    thinking: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list)
    reply: str = ""

    def prompt(self, model: Model) -> list[int]:
        return model.render(self.messages, thinking=self.thinking, tools=self.tools or None)


def asked(one: Dialogue) -> Question:
    """The last question of a dialogue, or the one that calls for a tool."""
    calls = [i for i, message in enumerate(one.messages) if message.get("tool_calls")]
    end = calls[0] if calls else len(one.messages) - 1
    return Question(one.messages[:end], one.thinking, one.tools)


def edit(rng: random.Random) -> Question:
    """A pasted text, and as the reply the same text with a word replaced here and there."""
    lines = [needle.filler(rng) for _ in range(EDITED_SENTENCES)]
    edited = []
    for place, line in enumerate(lines):
        parts = line.split(" ")
        if place % 2:
            parts[rng.randrange(1, len(parts) - 1)] = rng.choice(words.NOUNS)
        edited.append(" ".join(parts))
    text = EDIT + "\n".join(lines)
    return Question([{"role": "user", "content": text}], reply="\n".join(edited))


def questions(model: Model, task: str, count: int) -> list[Question]:
    """The questions of one of `TASKS`."""
    rng = random.Random(201)
    if task == "edit":
        return [edit(rng) for _ in range(count)]
    if task == "facts":
        return [asked(one) for one in recall_questions(count, TURNS_BETWEEN)]
    if task == "needles":

        def length(messages: list[Message]) -> int:
            return model.count(messages, thinking=True)

        return [asked(one) for one in needle_questions(length, NEEDLE_TOKENS, count)]
    return [asked(MAKERS[task](rng)) for _ in range(count)]


def mixed_questions() -> Iterator[Question]:
    """An endless stream of short ones, of all that the demo model was trained on."""
    mix = dialogues.Mix(turns=2, sentences=6)
    return map(asked, dialogues.generate(203, mix, held_out=True))


def exercise(rng: random.Random) -> Dialogue:
    """Worked out in the thought."""
    operands = arithmetic.draw(rng, HELD_OUT, 10, rng.choice("+-*"))
    turn = arithmetic.question(rng, *operands, True)
    return dialogue(rng, [turn], "arithmetic", thinking=True)


MAKERS: dict[str, Callable[[random.Random], Dialogue]] = {
    "arithmetic": exercise,
    "dialogues": lambda rng: dialogues.chat(rng, HELD_OUT, dialogues.Mix()),
    "definitions": lambda rng: dialogue(rng, [definitions.define(rng)], "definitions"),
    "tools": tools.call,
    "repeating": lambda rng: dialogues.copy(rng, HELD_OUT),
}
TASKS = (*MAKERS, "facts", "needles", "edit")
