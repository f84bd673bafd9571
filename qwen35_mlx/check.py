"""Check the kernels on this machine: `python -m qwen35_mlx.check [--model FOLDER_OR_NAME]`.

Every variant of every operation is compared with its reference and timed; the fastest that agrees
is kept for later starts.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.autotune import Operation, Trial, choose, fingerprint, winner
from qwen35_mlx.kernels.selection import REFERENCE
from qwen35_mlx.model.operations import operations
from qwen35_mlx.session.model import load


def report(operations: Sequence[Operation], tried: dict[str, list[Trial]]) -> None:
    """Print a table, then one JSON line."""
    for operation in operations:
        found = tried[operation.name]
        best = winner(found)
        print(operation.key)
        for t in found:
            error = "" if t.error is None else f"error {t.error:.1e}"
            clock = t.failure or f"{t.milliseconds:.3f} ms"
            print(f"  {'*' if t.form == best else ' '} {t.form:28} {error:16} {clock}")
    results = {name: [asdict(t) for t in found] for name, found in tried.items()}
    print(json.dumps({"check": "kernels", "machine": fingerprint(), "results": results}))


def main() -> int:
    """Run the command; its exit code: 0, 1 if a kernel failed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen35_mlx.kernels.autotune",
        description="Check every kernel against its reference, time it, and keep the fastest.",
    )
    parser.add_argument("--model", default="demo", help="folder or name; the demo if left out")
    args = parser.parse_args()
    if gpu_kernel.backend() is None:
        print(
            "there is no GPU here that kernels run on: the plain references are used"
            if not gpu_kernel.switched_off()
            else f"{gpu_kernel.SWITCH} is '{REFERENCE}': unset it to check kernels"
        )
        return 0
    try:
        network = load(args.model, notice=lambda _: None).network
    except Qwen35Error as error:
        print(f"qwen35: {error}", file=sys.stderr)
        return 2
    todo = operations(network)
    tried = choose(todo, network.selection, lambda line: print(line, file=sys.stderr), again=True)
    report(todo, tried)
    return 1 if any(t.failure for found in tried.values() for t in found) else 0


if __name__ == "__main__":
    sys.exit(main())
