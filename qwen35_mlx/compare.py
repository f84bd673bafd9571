"""Compare two models: `compare`, or `python -m qwen35_mlx.compare A B`.

Both read the same text, layer by layer, so that models of any size compare in little memory:
perplexity, KL divergence, agreement of the most likely token and, where both have the same shape,
errors of the tensors.

Heavy modules are imported where they are used, so that Ctrl-C ends their import in one line too.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen35_mlx.arguments import checked
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.text import (
    DEFAULT_TOKENS,
    built_in_texts,
    make_documents,
    read_user_text,
    tokenizer_difference,
)
from qwen35_mlx.progress import Progress, ProgressBar
from qwen35_mlx.terminal import print_error, print_line

if TYPE_CHECKING:
    from qwen35_mlx.evaluation.compare import Comparison

_ERRORS_IN_A_LINE = 8


@checked
def compare(
    a: str | Path,
    b: str | Path,
    *,
    text: str | None = None,
    tokens: int = DEFAULT_TOKENS,
    adapter_path: str | Path | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> "Comparison":
    """Measure model B against model A on a text.

        result = qwen35_mlx.compare("Qwen/Qwen3.5-4B", "my-4-bit")
        print(result.divergence.mean)

    Args:
        a, b: as `name` of `load`. Their tokenizers must agree; their shapes may differ.
        text: to measure on; None for one of the package, with prose, code, Chinese and arithmetic.
        tokens: the most tokens of the text that are read.
        adapter_path: of an adapter that is applied to model B, as for `load`.
        progress: called with (work done, work in all, what is being done).
        notice: called with a line for the user that says what is read.

    Raises:
        Qwen35Error: a model is not found or damaged, the tokenizers differ, the text is too short,
            or an argument does not fit.
    """
    from qwen35_mlx.checkpoint.hub import resolve_adapter, resolve_checkpoint
    from qwen35_mlx.checkpoint.opening import open_checkpoint
    from qwen35_mlx.evaluation.compare import compare_checkpoints
    from qwen35_mlx.text.tokenizer import Tokenizer

    names = str(a), str(b)
    paths = [resolve_checkpoint(name, notice=notice) for name in names]
    checkpoints = [open_checkpoint(path) for path in paths]
    if adapter_path is not None:
        checkpoints[1] = checkpoints[1].with_adapter(resolve_adapter(str(adapter_path)))
    tokenizers = [Tokenizer.from_files(one.text) for one in checkpoints]
    texts = built_in_texts() if text is None else [text]
    if difference := tokenizer_difference(tokenizers[0], tokenizers[1], texts, names):
        raise Qwen35Error(
            f"the tokenizers differ, so predictions cannot be compared: {difference}; "
            "choose two models of one family"
        )
    if notice:
        notice(f"Reading {paths[0]} and {paths[1]}")
    documents = make_documents(tokenizers[0], texts, tokens)
    return compare_checkpoints(checkpoints[0], checkpoints[1], documents, progress, names)


def report(result: "Comparison", names: tuple[str, str]) -> None:
    """Print a comparison as tables."""
    models, drift = (result.a, result.b), (result.divergence, result.floor)
    print_line(f"A: {names[0]}")
    print_line(f"B: {names[1]}")
    print_line()
    _print_row(f"{result.tokens:,} tokens", "A", "B")
    _print_row("perplexity", *(f"{m.perplexity:.4f} ± {m.perplexity_error:.4f}" for m in models))
    shares = [m.mtp_agreement for m in models]
    if shares != [None, None]:
        _print_row("MTP agreement", *("none" if s is None else f"{s:.2%}" for s in shares))
    loss = f"{result.loss_difference:+.5f} ± {result.loss_difference_error:.5f}"
    _print_row("loss, nats per token", "", f"A {loss}")
    print_line()
    _print_row("KL divergence, nats", "A || B", "floor: A || A")
    _print_row("  mean", *(f"{d.mean:.2e}" for d in drift))
    _print_row("  median", *(f"{d.median:.2e}" for d in drift))
    _print_row("  99th percentile", *(f"{d.p99:.2e}" for d in drift))
    _print_row("  largest", *(f"{d.largest:.2e}" for d in drift))
    _print_row("same top token", *(f"{d.top1:.2%}" for d in drift))
    if result.hidden_errors:
        print_line()
        print_line("relative error of the hidden states after each layer")
        for start in range(0, len(result.hidden_errors), _ERRORS_IN_A_LINE):
            errors = result.hidden_errors[start : start + _ERRORS_IN_A_LINE]
            print_line(f"  {start:4d}:  " + "  ".join(f"{error:.1e}" for error in errors))
    if result.tensor_errors:
        print_line()
        print_line("relative error of the tensors, by kind")
        for kind, error in result.tensor_errors.items():
            print_line(f"  {kind:34}{error:.2e}")
    for note in result.notes:
        print_line(f"note: {note}")


def _print_row(label: str, a: str, b: str) -> None:
    print_line(f"{label:22}{a:>26}{b:>26}")


def json_values(result: "Comparison") -> dict[str, Any]:
    """The fields as JSON has them: no infinity, which becomes None."""
    values = asdict(result)
    errors = values["tensor_errors"].items()
    values["tensor_errors"] = {kind: e if math.isfinite(e) else None for kind, e in errors}
    return values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 after an error line, 130 after Ctrl-C."""
    return run_command("python -m qwen35_mlx.compare", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = CommandParser(
        prog="python -m qwen35_mlx.compare",
        description="Measure model B against model A on a text, in little memory.",
    )
    add = parser.add_argument
    add("a", metavar="A", help="a folder, a GGUF file, a Hub repository, org/repo, or demo")
    add("b", metavar="B", help="the other model, of the same tokenizer")
    add("--text", metavar="FILE", help="text to measure on (default: one of the package)")
    add(
        "--tokens",
        type=int,
        default=DEFAULT_TOKENS,
        help="at most; fewer are faster (default: %(default)s)",
    )
    add("--adapter-path", metavar="PATH", help="a LoRA adapter that is applied to B")
    add("--json", action="store_true", help="print one JSON line in place of the table")
    options = parser.parse_args(argv)
    text = None if options.text is None else read_user_text("--text", options.text)
    import mlx.core as mx

    # Freed buffers have every size and are seldom reused: a cache of them would only grow.
    mx.set_cache_limit(0)
    with ProgressBar("Comparing", in_bytes=False) as bar:
        result = compare(
            options.a,
            options.b,
            text=text,
            tokens=options.tokens,
            adapter_path=options.adapter_path,
            progress=bar,
            notice=print_error,
        )
    if options.json:
        names = {"compare": [options.a, options.b]}
        print_line(json.dumps(names | json_values(result)))
        for note in result.notes:
            print_error(f"note: {note}")
    else:
        report(result, (options.a, options.b))
    return 0


if __name__ == "__main__":
    sys.exit(main())
