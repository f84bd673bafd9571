"""Files that a message names together: a folder `@src/`, or a pattern `@*.py`, `@src/**/*.py`."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from qwen35_chat.documents import document_kind
from qwen35_chat.git_ignored import GitIgnored
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import shown

MOST_FILES = 1_000  # of one folder or pattern
MOST_BYTES = 10_000_000  # of the text files together; no context holds more
MOST_LOOKED_AT = 20_000  # files and folders, in search of these
# Folders of files that programs have made.
MADE = {"node_modules", "__pycache__", "target", "build", "dist", "venv"}
_WILD = "*?["


@dataclass(slots=True)
class FileGroup:
    """Files that are named together.

    Attributes:
        name: as the message has it.
        paths: of each file the name, which begins as `name` does, and the path.
        left_out: why files and folders are left out, and how many for each reason.
    """

    name: str
    paths: list[tuple[str, Path]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def is_pattern(name: str) -> bool:
    return any(sign in name for sign in _WILD)


def names_file(name: str, file: str) -> bool:
    """Whether a name in a message is that of this file, its folder, or a pattern for it."""
    if file == name:
        return True
    start, pattern = _split(name)
    inside = file.startswith(start)
    return inside and (not pattern or _fits(file.removeprefix(start).split("/"), pattern))


def file_group(name: str, folder: Path) -> FileGroup:
    """The files in a folder, or those that fit a pattern, in order of their names.

    Hidden files and folders, links, what Git ignores and what programs make are left out.

    Args:
        name: of a folder, or a pattern.
        folder: that the name is relative to.

    Raises:
        Qwen35Error: there are too many.
        OSError, ValueError, RuntimeError: the name is that of no folder.
    """
    start, pattern = _split(name)
    root = Path(os.path.abspath(folder / Path(start).expanduser()))  # noqa: PTH100
    group = FileGroup(name)
    size = 0
    for path in _Walk(group, root, pattern).files():
        group.paths.append((f"{start}{path.relative_to(root).as_posix()}", path))
        if len(group.paths) > MOST_FILES:
            raise Qwen35Error(
                f"{shown(name)} has more than {MOST_FILES:,} files: name a part of them"
            )
        with suppress(OSError):
            if document_kind(path.name):
                continue
            size += path.stat().st_size
    if size > MOST_BYTES:
        raise Qwen35Error(
            f"{shown(name)} has {len(group.paths):,} files with {size:,} bytes, more than any "
            "context holds: name a part of them"
        )
    return group


def _split(name: str) -> tuple[str, list[str]]:
    """The folder at the beginning of a name, with a slash unless it is "", and the pattern."""
    parts = name.split("/")
    at = next((n for n, part in enumerate(parts) if is_pattern(part)), None)
    if at is None:
        return name.rstrip("/") + "/", []
    start = "/".join(parts[:at])
    return f"{start}/" if at else "", [part for part in parts[at:] if part]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a pattern; ** stands for any number of folders."""
    places = {0}  # in the pattern, that the parts so far may have led to
    for part in parts:
        places = _past_folders(places, pattern)
        places = {
            place if pattern[place] == "**" else place + 1
            for place in places
            if place < len(pattern) and fnmatchcase(part, pattern[place])
        }
    # A pattern that ends in ** means files at any depth.
    return len(pattern) in _past_folders(places, pattern)


def _past_folders(places: set[int], pattern: Sequence[str]) -> set[int]:
    """Places, and those that are reached where ** stands for no folder."""
    found = set(places)
    for place in sorted(places):
        while place < len(pattern) and pattern[place] == "**":
            place += 1
            found.add(place)
    return found


class _Walk:
    """A walk through a folder.

    Args:
        group: counts what is left out.
        pattern: for the paths of files from the root on; empty for all of them.
    """

    def __init__(self, group: FileGroup, root: Path, pattern: Sequence[str]):
        self._group = group
        self._root = root
        self._pattern = pattern
        self._deepest = None if not pattern or "**" in pattern else len(pattern)
        self._looked_at = 0

    def files(self) -> Iterator[Path]:
        return self._within(self._root, GitIgnored.around(self._root), 1)

    def _within(self, folder: Path, ignored: GitIgnored, depth: int) -> Iterator[Path]:
        try:
            children = sorted(folder.iterdir())
        except OSError:
            self._group.left_out["unreadable"] += 1
            return
        self._looked_at += len(children)
        if self._looked_at > MOST_LOOKED_AT:
            raise Qwen35Error(
                f"{shown(self._group.name)} has more than {MOST_LOOKED_AT:,} files and folders "
                "to look through: name a part of them"
            )
        for child in children:
            is_folder = child.is_dir()
            if not self._wanted(child, is_folder, depth):
                continue
            if reason := _left_out(child, is_folder, ignored):
                self._group.left_out[reason] += 1
            elif is_folder:
                yield from self._within(child, ignored.within(child), depth + 1)
            else:
                yield child

    def _wanted(self, child: Path, is_folder: bool, depth: int) -> bool:
        if is_folder:
            return self._deepest is None or depth < self._deepest
        parts = child.relative_to(self._root).parts
        return not self._pattern or _fits(parts, self._pattern)


def _left_out(child: Path, is_folder: bool, ignored: GitIgnored) -> str:
    """Why a file or a folder is left out; "" if it is not."""
    if child.name.startswith("."):
        return "hidden"
    if child.is_symlink():
        return "links"
    if is_folder and child.name in MADE:
        return "made by programs"
    if ignored.ignores(child, is_folder):
        return "ignored by Git"
    if '"' in child.name or "\n" in child.name:  # which no mention can hold
        return "with odd names"
    return "" if is_folder or child.is_file() else "no files"
