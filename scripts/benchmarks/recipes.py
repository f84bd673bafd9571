"""What recipes cost in quality: `python -m scripts.benchmarks.recipes`.

Quantises a model by each recipe and compares it with its plain float32 weights on dialogues that
were held out of the demo model's training: KL divergence of the next token at every position of the
replies, and how often the most likely token is the same. (The demo model was trained on replies
alone: what it expects elsewhere means little.) With `--questions`, each also answers held-out
questions greedily: a detail of a long text, two-digit arithmetic worked out in the thought, and a
fact told 20 turns before. Scales are bfloat16, as in a converted bfloat16 model, and `bfloat16` is
that model without quantisation; all compute in float32.

With `--calibrate`, recipes that search scales are measured a second time, calibrated on dialogues
of the demo model's training.

`--model random` makes a wide, dense model of random weights with heavy tails and outlier channels,
and compares on random ids. It shows how a recipe and the search bear such weights, not which kinds
of matrices matter: nothing in it was learned.

Prints a table and ends in one JSON line. There, `floor` is the divergence of the exact model from
itself when texts are read one by one, which is rounding alone.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.recipes import Recipe
from qwen35_mlx.conversion.calibration import Importance, measure_importance
from scripts.benchmarks.recipe_models import (
    RecipeNetworks,
    named_recipes,
    plain_tensors,
    random_config,
    random_tensors,
)
from scripts.benchmarks.recipe_text import (
    Question,
    Reference,
    calibration_text,
    held_out_texts,
    questions,
    random_texts,
    replies,
    right_answers,
)
from scripts.demo_training.text import ChatFormat
from scripts.support import report

BASELINE = "plain_4"
ROWS = (
    BASELINE, "plain_4_searched", "4bit", "mixed_4_6", "mixed_3_6", "3bit", "5bit", "6bit",
    "plain_5", "plain_8", "plain_nvfp4", "plain_mxfp4", "bfloat16",
)  # fmt: skip
# Texts that are read again, one by one, to see what rounding alone does.
FLOOR_TEXTS = 8


def main() -> int:
    known = named_recipes()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="folder, repository on the Hub, or random")
    parser.add_argument("--tokens", type=int, default=6000, help="positions to compare")
    parser.add_argument("--questions", type=int, default=0, help="of each skill")
    parser.add_argument("--calibrate", type=int, default=0, help="tokens to calibrate on")
    parser.add_argument("--needle-tokens", type=int, default=4096, help="of a text asked about")
    parser.add_argument(
        "--recipes", nargs="+", choices=known, default=ROWS, metavar="NAME", help=", ".join(known)
    )
    args = parser.parse_args()
    exam: Exam | None = None
    if args.model == "random":
        if args.calibrate:
            parser.error("random ids are no text to calibrate on: leave out --calibrate")
        config = random_config()
        networks = RecipeNetworks(config, random_tensors(config))
        texts = random_texts(config, args.tokens)
    else:
        path = resolve_checkpoint(args.model)
        if not (path / "tokenizer.json").exists():
            parser.error(f"{path} has no tokenizer.json, which the dialogues need")
        checkpoint, text = open_checkpoint(path), ChatFormat.load(path)
        importance: Importance | None = None
        if args.calibrate:
            importance = measure_importance(checkpoint, calibration_text(text, args.calibrate))
        networks = RecipeNetworks(checkpoint.model, plain_tensors(checkpoint), importance)
        texts = held_out_texts(text, args.tokens)
        if text.end is None:
            parser.error(f"{path}: its tokenizer has no <|im_end|>, which ends a reply")
        if args.questions:
            exam = Exam(text, text.end, questions(text, args.questions, args.needle_tokens))
    reference = Reference(networks.exact, texts)
    floor = Reference(networks.exact, texts[:FLOOR_TEXTS]).divergence(networks.exact, 1)[0]
    exact = exam.sit(networks) if exam else {}
    print(f"float32: {exact}; floor of the divergence: {floor.mean():.2g}", flush=True)
    rows = []
    for name in args.recipes:
        recipe = known[name]
        for calibrated in (False, True) if args.calibrate and recipe.search else (False,):
            rows.append(measure(networks, recipe, reference, exam, calibrated))
            report.print_table(rows[-1:])
    base = next((row for row in rows if row["recipe"] == BASELINE), None)
    print()
    rows = [compared(row, base) for row in rows]
    report.print_table(rows)
    report.print_json(
        "recipes",
        rows,
        model=Path(args.model).name,
        positions=sum(len(text.positions) for text in texts),
        floor=float(floor.mean()),
        float32=exact,
        needle_tokens=args.needle_tokens,
    )
    return 0


@dataclass(slots=True)
class Exam:
    """Questions to all networks. The replies of the exact one are the drafts of all others."""

    text: ChatFormat
    end: int
    asked: list[Question]
    drafts: list[list[int]] = field(default_factory=list)

    def sit(self, networks: RecipeNetworks) -> dict[str, str]:
        """Right answers of the exact network, which sits first."""
        drafts = [question.draft for question in self.asked]
        self.drafts = replies(networks.exact, self.asked, drafts, self.end)
        return right_answers(self.text, self.asked, self.drafts)


def measure(
    networks: RecipeNetworks,
    recipe: Recipe,
    reference: Reference,
    exam: Exam | None,
    calibrated: bool = False,
) -> dict[str, Any]:
    start = time.perf_counter()
    network, nbytes = networks.network(recipe, calibrated=calibrated), networks.nbytes(recipe)
    quantized = time.perf_counter()
    divergences, same = reference.divergence(network)
    row: dict[str, Any] = {
        "recipe": f"{recipe.name}, calibrated" if calibrated else recipe.name,
        "bytes": nbytes,
        "bits/weight": 8 * nbytes / networks.parameters,
        "mean KL": float(divergences.mean()),
        "+-": float(divergences.std() / len(divergences) ** 0.5),
        "p99 KL": float(np.quantile(divergences, 0.99)),
        "same top, %": 100 * same,
    }
    if exam:
        found = replies(network, exam.asked, exam.drafts, exam.end)
        row |= right_answers(exam.text, exam.asked, found)
    end = time.perf_counter()
    return row | {"quantising, s": quantized - start, "measuring, s": end - quantized}


def compared(row: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    """A row with its bytes and its divergence as shares of those of plain 4-bit quantisation."""
    if base is None:
        return row
    shares = {"bytes": "of plain's bytes", "mean KL": "of plain's KL"}
    return row | {share: row[key] / base[key] for key, share in shares.items()}


if __name__ == "__main__":
    sys.exit(main())
