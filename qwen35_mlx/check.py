"""Check the kernels on this machine: `python -m qwen35_mlx.check [--model FOLDER_OR_NAME]`.

Compares every variant of every operation with its reference, times it, stores the fastest that
agrees for later starts, and prints a table.

Heavy modules are imported where they are used, so that Ctrl-C ends their import in one line too.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from qwen35_mlx import demo
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.terminal import print_error, print_line

if TYPE_CHECKING:
    from qwen35_mlx.kernels.autotune import Operation, Trial


def report(operations: Sequence["Operation"], tried: dict[str, list["Trial"]]) -> None:
    """Print a table, then one JSON line.

    The times of checks have those of compiling in them; the others are of one call.
    """
    from qwen35_mlx.kernels.autotune import fastest_variant, machine_key

    for operation in operations:
        trials = tried[operation.key]
        fastest = fastest_variant(trials, operation.margin)
        print_line(operation.key)
        for t in trials:
            error = "" if t.error is None else f"error {t.error:.1e}"
            checked = f"checked in {1000 * t.check_seconds:.0f} ms"
            result = t.failure or f"{t.milliseconds:.3f} ms"
            mark = "*" if t.variant == fastest else " "
            print_line(f"  {mark} {t.variant:28} {error:16} {checked:22} {result}")
    results = {key: [asdict(t) for t in trials] for key, trials in tried.items()}
    print_line(json.dumps({"check": "kernels", "machine": machine_key(), "results": results}))


def main() -> int:
    """Run the command and return its exit code: 0, 1 if a kernel failed, 2 on invalid input."""
    return run_command("python -m qwen35_mlx.check", _run)


def _run() -> int:
    parser = CommandParser(
        prog="python -m qwen35_mlx.check",
        description="Check every kernel against its reference, time it, and keep the fastest.",
    )
    parser.add_argument("--model", default=demo.NAME, help="folder or name; default: the demo")
    args = parser.parse_args()
    from qwen35_mlx.kernels import gpu_kernel
    from qwen35_mlx.kernels.autotune import tune
    from qwen35_mlx.kernels.decode_attention import PACKED_BITS
    from qwen35_mlx.kernels.selection import REFERENCE
    from qwen35_mlx.model.operations import operations
    from qwen35_mlx.session.load import load

    if gpu_kernel.backend() is None:
        print_line(
            "there is no GPU here that kernels run on: the plain references are used"
            if not gpu_kernel.kernels_disabled()
            else f"{gpu_kernel.KERNELS_ENV} is '{REFERENCE}': unset it to check kernels"
        )
        return 0
    network = load(args.model, notice=lambda _: None).network
    todo = operations(network, PACKED_BITS)
    tried = tune(todo, network.selection, print_error, retry=True)
    report(todo, tried)
    return 1 if any(t.failure for trials in tried.values() for t in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
