"""Any library, exported, imported and exported again, gives the same bytes."""

import os
import random
from pathlib import Path
from typing import Any, get_args

import pytest

from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    FinishReason,
    Message,
    MessageState,
    Role,
    Usage,
)
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.importing import MAX_INTEGER, MAX_SEED, from_json
from qwen35_mlx.library.library import Library

# Conversations. A longer run: QWEN35_ROUND_TRIPS=20000
ROUNDS = int(os.environ.get("QWEN35_ROUND_TRIPS", "120"))
PIECES = [
    *("", " ", "\n", "\r\n", "\t", "\x00", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\\"),
    *("你好，世界。", "日本語ﾊﾟﾝ", "한국어", "ไทย", "مرحبا", "e\u0301", "é", "words ", '"'),
    *("👩\u200d👩\u200d👧", "🇩🇪", "❤\ufe0f", "\ud83d", "\udc00", "\uffff", "\U0010ffff"),
    *("</think>", "<|im_end|>", "</file>", "```", "**x**"),
]
NUMBERS = [0, 1, -1, 2**31, -(2**63), MAX_INTEGER, 10**400, -(10**30)]
FLOATS = [0.0, -0.0, 0.1, 1e-300, 1e300, -2.5, 5e-324, float("inf"), float("-inf"), float("nan")]
TIMES = [0, 0.0, 1.7e9, 1.7e9 + 1e-6, 1.7e12, 1.7e15, 1.7e18, -1.0, 1e300, -1e300, 1, 2.0**40, 1e11]


class Maker:
    """Makes anything that the library stores."""

    def __init__(self, seed: int):
        self._rng = random.Random(seed)
        self.one_of = self._rng.choice

    def text(self) -> str:
        return "".join(self._rng.choices(PIECES, k=self._rng.randrange(6)))

    def chance(self) -> bool:
        return self._rng.random() < 0.3

    def value(self, depth: int = 0) -> Any:
        kinds = "tnfbz" if depth > 3 else "tnfbzdl"
        match self.one_of(kinds):
            case "t":
                return self.text()
            case "n":
                return self.one_of(NUMBERS)
            case "f":
                return self.one_of(FLOATS)
            case "b":
                return self.chance()
            case "d":
                return {self.text(): self.value(depth + 1) for _ in range(self._rng.randrange(4))}
            case "l":
                return [self.value(depth + 1) for _ in range(self._rng.randrange(4))]
            case _:
                return None

    def settings(self) -> ChatSettings:
        return ChatSettings(
            system=self.one_of([None, self.text()]),
            thinking=self.one_of([None, True, False]),
            max_tokens=self.one_of([None, 0, 1, MAX_INTEGER]),
            seed=self.one_of([None, 0, 2**63, MAX_SEED]),
            sampling={"temperature": self.one_of([None, 0, 0.7, 1]), "top_k": 20},
            template_arguments={self.text(): self.value() for _ in range(self._rng.randrange(3))},
            thinking_budget=self.one_of([None, 0, MAX_INTEGER]),
            repetition_guard=self.one_of([None, True, False]),
        )

    def message(self, number: int) -> Message:
        call = {"name": self.text(), "arguments": {self.text(): self.value()}}
        calls = ({"type": "function", "function": call},) * self._rng.randrange(3)
        usage = Usage(1, 0, MAX_INTEGER, 0.1, 1e-9, 2**40)
        return Message(
            number,
            self.one_of([None, *range(1, number)]),
            self.one_of(get_args(Role)),
            self.text(),
            thinking=self.text(),
            tool_calls=calls if self.chance() else (),
            state=self.one_of(get_args(MessageState)),
            finish_reason=self.one_of([None, *get_args(FinishReason)]),
            error=self.text(),
            model=self.text(),
            usage=usage if self.chance() else None,
            thinking_seconds=self.one_of([None, 0.0, 1.5]),
            created=self.one_of(TIMES),
        )

    def conversation(self) -> Conversation:
        messages = tuple(self.message(number) for number in range(1, self._rng.randrange(8) + 1))
        return Conversation(
            id=0,
            title=self.text(),
            messages=messages,
            leaf=self.one_of([None, *(message.id for message in messages)]),
            settings=self.settings(),
            model=self.text(),
            created=self.one_of(TIMES),
            updated=self.one_of(TIMES),
        )


def test_any_library_is_imported_and_exported_to_the_same_bytes(tmp_path: Path) -> None:
    with Library(tmp_path / "one") as one, Library(tmp_path / "two") as two:
        with one.transaction(), two.transaction():
            for seed in range(ROUNDS):
                made = Maker(seed).conversation()
                first = one.conversation(one.add_conversation(made))
                text = to_json(first)
                second = two.conversation(two.add_conversation(from_json(text)))
                assert to_json(second) == text, seed
                assert len(second.messages) == len(made.messages)
                if first.settings == first.settings:  # not so with a NaN among the arguments
                    assert write_json(second.settings.template_arguments) == write_json(
                        first.settings.template_arguments
                    )
        assert not one.notices()
        assert not two.notices()
        # And by the list, whose order is the same.
        assert len(one.list(ROUNDS * 2)) == len(two.list(ROUNDS * 2)) == ROUNDS


@pytest.mark.parametrize("seed", [0, MAX_INTEGER, MAX_INTEGER + 1, MAX_SEED])
def test_any_seed_is_imported_again(tmp_path: Path, seed: int) -> None:
    with Library(tmp_path) as library:
        first = library.conversation(library.create(settings=ChatSettings(seed=seed)))
        second = library.conversation(library.add_conversation(from_json(to_json(first))))
        assert second.settings.seed == seed
