"""Stored conversations and model states: `python -m qwen35_mlx.session info|prune|verify`."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.database_errors import how_to_rescue
from qwen35_mlx.library.home import STATES, home
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.verifying import damages, rebuild_search
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import prefix_tree
from qwen35_mlx.terminal import print_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        the exit code: 0, 1 if something is damaged, 2 for bad input.
    """
    return run_command("python -m qwen35_mlx.session", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = CommandParser(
        prog="python -m qwen35_mlx.session",
        description="Look after stored conversations and the model states beside them.",
    )
    anywhere = CommandParser(add_help=False, argument_default=argparse.SUPPRESS)
    for one in (parser, anywhere):
        one.add_argument("--folder", help="in place of $QWEN35_HOME or the usual one")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what is stored, and how large it is", parents=[anywhere])
    what = "drop model states; no conversation is touched"
    command = commands.add_parser("prune", help=what, parents=[anywhere])
    command.add_argument(
        "--budget", type=float, default=0.0, metavar="GB", help="gigabytes to keep; default: 0"
    )
    what = "read everything and compare its checksums"
    command = commands.add_parser("verify", help=what, parents=[anywhere])
    command.add_argument("--delete", action="store_true", help="delete states that are damaged")
    args = parser.parse_args(argv)
    folder = home(args.folder or None)
    if args.command == "info":
        return info(folder)
    if args.command == "prune":
        return prune(folder, args.budget)
    return verify(folder, args.delete)


def info(folder: Path) -> int:
    """Print the sizes of the library and of each model's states."""
    if _has_library(folder):
        with Library(folder) as library:
            count = _count(library.count(), "conversation")
            print_line(f"{folder}: {count}, {_size(library.file.stat().st_size)}")
    else:
        print_line(f"{folder}: no conversations yet")
    states = folder / STATES
    print_line(f"{states}: {_size(prefix_tree.total_bytes(states))}")
    for model in prefix_tree.model_folders(states):
        tree = prefix_tree.PrefixTree.of(model)
        if not tree.kv and not tree.states:
            continue
        longest = max((file.segment.end for file in tree.states.values()), default=0)
        kv_bytes = sum(file.size for file in tree.kv.values())
        state_bytes = sum(file.size for file in tree.states.values())
        print_line(
            f"  {model.name}: {_count(len(tree.states), 'position')}, "
            f"the furthest at {longest:,} tokens; "
            f"{_size(kv_bytes)} of keys and values, {_size(kv_bytes + state_bytes)} in all"
        )
    return 0


def prune(folder: Path, budget: float) -> int:
    """Delete states, the least recently used first, down to `budget` GB."""
    if not 0 <= budget < math.inf:
        raise Qwen35Error(f"--budget is {budget}: give gigabytes, 0 or more")
    states = folder / STATES
    removed = prefix_tree.remove_garbage(states)
    dropped, freed = prefix_tree.evict(states, int(budget * 1e9))
    print_line(
        f"{_count(dropped, 'state')} dropped, {_size(freed)} freed; "
        f"{_count(removed, 'file')} removed that nothing could use; "
        f"{_size(prefix_tree.total_bytes(states))} left"
    )
    return 0


def verify(folder: Path, delete: bool) -> int:
    """Verify the library and every state file, and print what is damaged."""
    library_damaged = _check_library(folder)
    count = size = damaged = 0
    for model in prefix_tree.model_folders(folder / STATES):
        for file in prefix_tree.stored_files(model):
            count += 1
            size += file.size
            try:
                snapshot_file.verify(file.path)
            except snapshot_file.UnusableError as error:
                damaged += 1
                outcome = ""
                if delete:
                    deleted = prefix_tree.delete(file)
                    outcome = ": deleted" if deleted else ": cannot be deleted, remove it by hand"
                print_line(f"{file.path} {error}{outcome}")
    found = f"{damaged} cannot be used" if damaged else "all whole"
    print_line(f"{_count(count, 'file')} of model states, {_size(size)}: {found}")
    return 1 if damaged or library_damaged else 0


def _has_library(folder: Path) -> bool:
    """Whether there are conversations, or what is left of them if the file itself is gone."""
    return any(folder.glob(f"{Path(FILE).stem}.*"))


def _check_library(folder: Path) -> bool:
    """Check the conversations and print the result; True if they are damaged."""
    if not _has_library(folder):
        print_line(f"{folder}: no conversations yet")
        return False
    with Library(folder) as library:
        damaged = damages(library)
        count = _count(library.count(), "conversation") if not damaged else ""
        print_line(f"{library.file}: {'; '.join(damaged) if damaged else f'{count}, all whole'}")
        if not damaged and not library.read_only and rebuild_search(library):
            print_line(f"{library.file}: the search index was damaged, and is rebuilt")
        for line in library.notices():
            print_line(line)
    if damaged:
        print_line(how_to_rescue(library.file))
    return bool(damaged)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit / 10:
            return f"{count / unit:.{2 if name == 'GB' else 1}f} {name}"
    return f"{count / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
