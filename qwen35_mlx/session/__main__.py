"""Stored conversations and model states: `python -m qwen35_mlx.session info|prune|verify`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session import state_file, state_folder
from qwen35_mlx.session.home import home
from qwen35_mlx.session.library import Library

STATES = "states"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0, 1 if something is damaged, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen35_mlx.session",
        description="Look after stored conversations and the model states beside them.",
    )
    parser.add_argument("--folder", type=Path, help="in place of $QWEN35_HOME or the usual one")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what is stored, and how large it is")
    prune = commands.add_parser("prune", help="drop model states; no conversation is touched")
    prune.add_argument(
        "--budget", type=float, default=0.0, metavar="GB", help="keep so many; default: none"
    )
    verify = commands.add_parser("verify", help="read everything and compare its checksums")
    verify.add_argument("--delete", action="store_true", help="delete states that are damaged")
    args = parser.parse_args(argv)
    try:
        folder = home(args.folder)
        if args.command == "info":
            return info(folder)
        if args.command == "prune":
            return drop(folder, args.budget)
        return check(folder, args.delete)
    except Qwen35Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def info(folder: Path) -> int:
    """Print sizes: the library's, and each model's states'."""
    with Library(folder) as library:
        print(f"{folder}: {library.count()} conversations, {_size(library.file.stat().st_size)}")
    states = folder / STATES
    print(f"{states}: {_size(state_folder.usage(states))}")
    for model in state_folder.models(states):
        tree = state_folder.Tree.of(model)
        stored = [*tree.rows.values(), *tree.states.values()]
        longest = max((s.node.end for s in tree.states.values()), default=0)
        print(
            f"  {model.name}: {len(tree.states)} positions, the furthest at {longest:,} tokens; "
            f"{_size(sum(s.size for s in tree.rows.values()))} of keys and values, "
            f"{_size(sum(s.size for s in stored))} in all"
        )
    return 0


def drop(folder: Path, budget: float) -> int:
    """Drop states, least recently used first, down to `budget` GB."""
    if budget < 0:
        raise Qwen35Error(f"--budget is {budget}: it must be 0 or more")
    states = folder / STATES
    removed = state_folder.clean(states)
    dropped, freed = state_folder.evict(states, int(budget * 1e9))
    print(
        f"{dropped} states dropped, {_size(freed)} freed; "
        f"{removed} files removed that nothing could use; {_size(state_folder.usage(states))} left"
    )
    return 0


def check(folder: Path, delete: bool) -> int:
    """Verify every state file, and say which are damaged."""
    count = size = bad = 0
    for model in state_folder.models(folder / STATES):
        for stored in state_folder.files(model):
            count += 1
            size += stored.size
            try:
                state_file.verify(stored.path)
            except state_file.UnusableError as error:
                bad += 1
                gone = delete and state_folder.delete(stored)
                print(f"{stored.path} {error}{': deleted' if gone else ''}")
    print(
        f"{count} files, {_size(size)}: {bad} cannot be used"
        if bad
        else f"{count} files, {_size(size)}: all whole"
    )
    return 1 if bad else 0


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
