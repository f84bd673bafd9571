"""The held-out questions for the shipped model, through this package.

    python -m scripts.demo_training.evaluate_package [FOLDER] [--count 100] [--only guide,ends]

Decodes greedily. FOLDER is any checkpoint; the default is the model in the package.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import qwen35_mlx
from qwen35_mlx.session.events import Answer, Done, Thinking, ToolCall
from scripts.demo_training.evaluate import evaluate
from scripts.demo_training.evaluate_guide import END
from scripts.demo_training.turns import Message


class PackageModel:
    """A loaded model, with replies as raw text rebuilt from its events."""

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
            elif isinstance(event, Done) and event.finish_reason == "stop":
                answer += END
        return f"{thought}</think>{answer}"

    def length(self, messages: list[Message]) -> int:
        return len(self.model.render(messages, thinking=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", default="demo")
    parser.add_argument("--count", type=int, default=100, help="questions per skill")
    parser.add_argument("--only", default="", help="skills, separated by commas; default: all")
    parser.add_argument("--misses", action="store_true", help="print wrong answers, too")
    args = parser.parse_args()
    model = PackageModel(qwen35_mlx.load(args.folder))
    scores = evaluate(model.generate, model.length, None, args.count, args.only)
    if args.misses:
        print(*(miss for score in scores for miss in score.misses), sep="\n")
    print(json.dumps({s.skill: [s.right, s.count] for s in scores}))


if __name__ == "__main__":
    main()
