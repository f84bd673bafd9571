"""What drafts gain with a trained model, by task: `python -m scripts.benchmarks.drafts`.

Replies are greedy, of the demo model unless another is named. Each is written without drafts and in
every other mode, one after the other, from the same state of the prompt; the order changes from
question to question. Speed is tokens a second after the prompt, as a multiple of those without
drafts: the median over the questions.

| mode | drafts |
|---|---|
| auto | of the source and as many as are fastest on this machine, as a model does by itself |
| 1, 3, 5 | always as many, by the MTP head |
| copy | all that can be copied from the conversation, whether it gains time or not |

The reply of the task `edit` is given: a pasted text with a word replaced here and there. The demo
model cannot edit texts, so its own next tokens are passed over, but the MTP head drafts by them.

With `--ties N`, counts in bfloat16 how many of N replies differ with drafts, and how near the two
largest logits were where they first do. Prints a table and ends in one JSON line.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import qwen35_mlx
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.drafter import MAX_DEPTH, PassCosts
from qwen35_mlx.kernels import gpu_kernel
from scripts.benchmarks import draft_ties
from scripts.benchmarks.draft_runs import Written, make_drafter, prepare, write
from scripts.benchmarks.draft_tasks import TASKS, questions
from scripts.support import report

UNTIMED = 24  # tokens of a first reply in each mode


@dataclass(slots=True)
class Tally:
    """What came of the replies of one mode.

    Attributes:
        speeds: of each, as a multiple of that without drafts.
        sources: passes by the source of their drafts.
        differ: replies that are not those without drafts.
    """

    tokens: int = 0
    speeds: list[float] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    differ: int = 0

    def add(self, reply: Written, plain: Written) -> None:
        assert reply.drafter is not None
        self.tokens += len(reply.ids)
        self.speeds.append(reply.rate / plain.rate)
        self.drafted += reply.drafter.drafted
        self.accepted += reply.drafter.accepted
        self.sources += reply.drafter.sources
        self.differ += reply.ids != plain.ids


def measure(
    model: qwen35_mlx.Model,
    task: str,
    modes: Sequence[str],
    costs: PassCosts,
    count: int,
    tokens: int,
) -> list[dict[str, Any]]:
    """A row for each mode.

    Args:
        costs: as for `make_drafter`.
        count: of questions.
        tokens: of a reply, at most.
    """
    order = ["off", *modes]
    make = {mode: partial(make_drafter, mode, model.network, costs=costs) for mode in order}
    asked = [prepare(model, question) for question in questions(model, task, count)]
    for mode in order:
        write(model, asked[0], UNTIMED, make[mode])
    tallies = {mode: Tally() for mode in modes}
    for number, one in enumerate(asked):
        start = number % len(order)
        replies = {
            mode: write(model, one, tokens, make[mode], eos=model.eos)
            for mode in order[start:] + order[:start]
        }
        for mode, tally in tallies.items():
            tally.add(replies[mode], replies["off"])
    return [row(task, mode, tally) for mode, tally in tallies.items()]


def row(task: str, mode: str, tally: Tally) -> dict[str, Any]:
    passes = tally.sources.total()
    return {
        "task": task,
        "drafts": mode,
        "replies": len(tally.speeds),
        "tokens": tally.tokens,
        "tokens a pass": tally.tokens / passes,
        "accepted": tally.accepted,
        "of": tally.drafted,
        "head %": 100 * tally.sources["mtp"] / passes,
        "copy %": 100 * tally.sources["copy"] / passes,
        "speed": statistics.median(tally.speeds),
        "differ": tally.differ,
    }


def run(args: argparse.Namespace) -> int:
    for name in ("questions", "tokens", "ties"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise Qwen35Error(f"--{name} {getattr(args, name)}: give at least 1")
    dtype = "bfloat16" if args.ties else args.dtype
    model = qwen35_mlx.load(args.model, dtype=dtype)
    depths = [str(depth) for depth in args.depths]
    if model.network.mtp is None:
        print("no MTP head: drafts are copied from the conversation alone", flush=True)
        depths = []
    about = {"model": args.model, "dtype": str(model.network.dtype).removeprefix("mlx.core.")}
    about["kernels"] = gpu_kernel.backend() or "none"
    print(", ".join([report.device()["device"], *about.values()]), flush=True)
    if args.ties:
        rows, near = draft_ties.measure(model, args.ties, args.tokens, [*depths, "copy"])
        draft_ties.show(rows, near)
        report.print_json("drafts", rows, part="ties", near=near, **about)
        return 0
    costs, rows = PassCosts(), list[dict[str, Any]]()
    for task in args.tasks:
        found = measure(model, task, ["auto", *depths, "copy"], costs, args.questions, args.tokens)
        print(f"{task}: done", flush=True)
        rows += found
    report.print_table(rows)
    report.print_json("drafts", rows, **about)
    return 0


def main() -> int:
    parser = CommandParser("drafts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the tasks")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--questions", type=int, default=8, help="of a task")
    parser.add_argument("--tokens", type=int, default=128, help="of a reply, at most")
    parser.add_argument(
        "--depths", type=int, nargs="+", choices=range(1, MAX_DEPTH + 1), default=[1, 3, 5]
    )
    parser.add_argument("--ties", type=int, metavar="N", help="replies, in place of the tasks")
    return run_command("drafts", lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
