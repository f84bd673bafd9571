"""Stored conversations and model states: `python -m qwen35_mlx.session info|prune|verify`."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.home import home
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.prompt_cache import file as state_file
from qwen35_mlx.prompt_cache import folder as state_folder

STATES = "states"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0, 1 if something is damaged, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen35_mlx.session",
        description="Look after stored conversations and the model states beside them.",
    )
    parser.add_argument("--folder", help="in place of $QWEN35_HOME or the usual one")
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
        folder = home(args.folder or None)
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
    if (folder / FILE).exists():
        with Library(folder) as library:
            count = _count(library.count(), "conversation")
            print(f"{folder}: {count}, {_size(library.file.stat().st_size)}")
    else:
        print(f"{folder}: no conversations yet")
    states = folder / STATES
    print(f"{states}: {_size(state_folder.usage(states))}")
    for model in state_folder.models(states):
        tree = state_folder.Tree.of(model)
        stored = [*tree.rows.values(), *tree.states.values()]
        if not stored:
            continue
        longest = max((s.node.end for s in tree.states.values()), default=0)
        print(
            f"  {model.name}: {_count(len(tree.states), 'position')}, "
            f"the furthest at {longest:,} tokens; "
            f"{_size(sum(s.size for s in tree.rows.values()))} of keys and values, "
            f"{_size(sum(s.size for s in stored))} in all"
        )
    return 0


def drop(folder: Path, budget: float) -> int:
    """Drop states, least recently used first, down to `budget` GB."""
    if not 0 <= budget < math.inf:
        raise Qwen35Error(f"--budget is {budget}: give gigabytes, 0 or more")
    states = folder / STATES
    removed = state_folder.clean(states)
    dropped, freed = state_folder.evict(states, int(budget * 1e9))
    print(
        f"{_count(dropped, 'state')} dropped, {_size(freed)} freed; "
        f"{_count(removed, 'file')} removed that nothing could use; "
        f"{_size(state_folder.usage(states))} left"
    )
    return 0


def check(folder: Path, delete: bool) -> int:
    """Verify the library and every state file, and say what is damaged."""
    wrong = _check_library(folder)
    count = size = bad = 0
    for model in state_folder.models(folder / STATES):
        for stored in state_folder.files(model):
            count += 1
            size += stored.size
            try:
                state_file.verify(stored.path)
            except state_file.UnusableError as error:
                bad += 1
                done = ""
                if delete:
                    gone = state_folder.delete(stored)
                    done = ": deleted" if gone else ": cannot be deleted, remove it by hand"
                print(f"{stored.path} {error}{done}")
    found = f"{bad} cannot be used" if bad else "all whole"
    print(f"{_count(count, 'file')} of model states, {_size(size)}: {found}")
    return 1 if bad or wrong else 0


def _check_library(folder: Path) -> bool:
    """Whether something is wrong with the conversations, which is printed."""
    if not (folder / FILE).exists():
        print(f"{folder}: no conversations yet")
        return False
    with Library(folder) as library, library.reading() as db:
        found = [line for (line,) in db.execute("PRAGMA integrity_check(3)")]
        whole = found == ["ok"]
        count = _count(library.count(), "conversation")
        print(f"{library.file}: {f'{count}, all whole' if whole else '; '.join(found)}")
    if not whole:
        print(f"close every window and rescue it with: sqlite3 '{library.file}' .recover")
    return not whole


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit / 10:
            return f"{count / unit:.{2 if name == 'GB' else 1}f} {name}"
    return f"{count / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
