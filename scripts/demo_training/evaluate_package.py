"""The same held-out questions, asked of the shipped model through the package.

    python -m scripts.demo_training.evaluate_package [FOLDER] [--count 100]

Greedy decoding; FOLDER is any checkpoint, and the model in the package where it is left out.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import qwen35_mlx
from qwen35_mlx.session.events import Answer, Thinking, ToolCall
from scripts.demo_training.evaluate import evaluate
from scripts.demo_training.turns import Message


class Asker:
    """Raw replies of a loaded model, put together again from its events."""

    def __init__(self, model: qwen35_mlx.Model) -> None:
        self.model = model

    def generate(
        self,
        messages: list[Message],
        *,
        thinking: bool,
        max_tokens: int,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        thought, answer = "", ""
        for event in self.model.stream(
            messages, thinking=thinking, max_tokens=max_tokens, tools=tools, seed=0, temperature=0.0
        ):
            if isinstance(event, Thinking):
                thought += event.text
            elif isinstance(event, Answer):
                answer += event.text
            elif isinstance(event, ToolCall):
                values = "".join(
                    f"<parameter={key}>\n{value}\n</parameter>\n"
                    for key, value in event.arguments.items()
                )
                answer += f"<function={event.name}>\n{values}"
        return f"{thought}</think>{answer}"

    def length(self, messages: list[Message]) -> int:
        return len(self.model.render(messages, thinking=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="demo")
    parser.add_argument("--count", type=int, default=100, help="questions per skill")
    args = parser.parse_args()
    asker = Asker(qwen35_mlx.load(args.folder))
    scores = evaluate(asker.generate, asker.length, None, args.count)
    print(json.dumps({s.skill: [s.right, s.count] for s in scores}))


if __name__ == "__main__":
    main()
