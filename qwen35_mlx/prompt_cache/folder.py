"""Which model states a folder holds: a tree of token prefixes, told by file names alone.

    <folder>/<model>/<start>-<end>-<parent>-<key>.kv.safetensors      keys and values, start to end
    <folder>/<model>/<start>-<end>-<parent>-<key>.state.safetensors   recurrent state at end

A key is a hash of all tokens up to `end`, chained through its parent's, so that equal prefixes are
stored once. There is no index to go wrong: a file is there completely or not at all, and the time
of its last use is the file's. A position can be restored if its state is there and the keys and
values of its whole chain.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qwen35_mlx.prompt_cache.file import remove_abandoned

ROWS, STATE = "kv", "state"
# A process that has written keys and values is about to write the state that needs them.
GRACE_SECONDS = 3600.0

_NAME = re.compile(
    rf"(\d+)-(\d+)-([0-9a-f]{{32}})-([0-9a-f]{{32}})\.({ROWS}|{STATE})\.safetensors$"
)


@dataclass(frozen=True)
class Node:
    """A stretch of tokens after its parent's: `start` to `end` of every prompt that has this key.

    Attributes:
        parent, key: hashes of the first `start` and of the first `end` tokens.
    """

    folder: Path
    start: int
    end: int
    parent: str
    key: str

    @cached_property
    def stem(self) -> str:
        return f"{self.start:07d}-{self.end:07d}-{self.parent}-{self.key}"

    def path(self, kind: str) -> Path:
        """The file of its rows (`ROWS`) or of its state (`STATE`)."""
        return self.folder / f"{self.stem}.{kind}.safetensors"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on disk: of which node, of which kind, how large, when last used (seconds)."""

    node: Node
    kind: str
    size: int
    used: float

    @property
    def path(self) -> Path:
        return self.node.path(self.kind)


def root_key(model: str) -> str:
    """The key of no tokens at all."""
    return hashlib.blake2b(model.encode(), digest_size=16).hexdigest()


def next_key(parent: str, ids: Sequence[int] | np.ndarray) -> str:
    """The key of the tokens of `parent` followed by these."""
    raw = np.asarray(ids, dtype="<i4").tobytes()
    return hashlib.blake2b(bytes.fromhex(parent) + raw, digest_size=16).hexdigest()


def files(folder: Path) -> Iterator[Stored]:
    """All states of one model; what has another name is not looked at."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if found := _NAME.match(entry.name):
                with suppress(OSError):  # gone by now
                    about = entry.stat()
                    start, end, parent, key, kind = found.groups()
                    node = Node(folder, int(start), int(end), parent, key)
                    yield Stored(node, kind, about.st_size, about.st_mtime)


class Tree:
    """The states of one model as they were on disk at a moment."""

    def __init__(self, folder: Path, stored: Sequence[Stored]):
        self.folder = folder
        self.rows = {s.node.key: s for s in stored if s.kind == ROWS}
        self.states = {s.node.key: s for s in stored if s.kind == STATE}
        self.children: dict[str, list[Node]] = {}
        for found in self.rows.values():
            self.children.setdefault(found.node.parent, []).append(found.node)

    @classmethod
    def of(cls, folder: Path) -> "Tree":
        return cls(folder, list(files(folder)))

    def chain(self, node: Node) -> list[Node] | None:
        """The nodes from the first token to this one's end; None if one is missing."""
        chain: list[Node] = []
        at: Node | None = node
        while at is not None and len(chain) <= len(self.rows):
            if at.key not in self.rows:
                return None
            chain.append(at)
            if at.start == 0:
                return chain[::-1]
            before = self.rows.get(at.parent)
            at = before.node if before and before.node.end == at.start else None
        return None

    def along(self, ids: Sequence[int], root: str) -> list[Node]:
        """Every node whose tokens `ids` begin with, shortest first."""
        tokens = np.asarray(ids, dtype="<i4")
        found: list[Node] = []
        open_: list[tuple[str, int]] = [(root, 0)]
        while open_:
            key, position = open_.pop()
            children = [n for n in self.children.get(key, ()) if n.start == position]
            # Many children of one length are one comparison.
            by_end: dict[int, dict[str, Node]] = {}
            for node in children:
                by_end.setdefault(node.end, {})[node.key] = node
            for end, nodes in by_end.items():
                if position < end <= len(ids):
                    node = nodes.get(next_key(key, tokens[position:end]))
                    if node is not None:
                        found.append(node)
                        open_.append((node.key, end))
        return sorted(found, key=lambda node: node.end)

    def needed(self) -> set[str]:
        """Keys of all rows that some state is restored from."""
        needed: set[str] = set()
        for stored in self.states.values():
            chain = self.chain(stored.node)
            if chain is not None:
                needed.update(node.key for node in chain)
        return needed

    def useless(self, now: float) -> list[Stored]:
        """States that lack rows, and rows that no state needs, unless one may be on its way."""
        needed = self.needed()
        lost = [s for s in self.states.values() if s.node.key not in needed]
        idle = [s for s in self.rows.values() if s.node.key not in needed]
        # A time to come is from a clock that was set back since.
        return lost + [s for s in idle if abs(now - s.used) > GRACE_SECONDS]


def models(folder: Path) -> list[Path]:
    """The folders of all models that have states here."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def usage(folder: Path) -> int:
    """Bytes of all states of all models."""
    return sum(stored.size for model in models(folder) for stored in files(model))


def clean(folder: Path) -> int:
    """Delete what no process will ever use: see `Tree.useless`; how many files that were."""
    removed = 0
    for model in models(folder):
        removed += remove_abandoned(model)
        for stored in Tree.of(model).useless(time.time()):
            removed += delete(stored)
    return removed


def delete(stored: Stored) -> bool:
    """Whether the file was there and is gone now."""
    with suppress(OSError):
        stored.path.unlink()
        return True
    return False


def evict(folder: Path, budget: int) -> tuple[int, int]:
    """Drop states, least recently used first, until all take at most `budget` bytes.

    Rows go with the last state that needs them.

    Returns:
        how many states were dropped, and the bytes that all files took.
    """
    stored = [s for model in models(folder) for s in files(model)]
    total = sum(s.size for s in stored)
    if total <= budget:
        return 0, 0
    before, dropped = total, 0
    trees = {
        model: Tree(model, [s for s in stored if s.node.folder == model])
        for model in {s.node.folder for s in stored}
    }
    # How many states need each stretch of rows.
    uses: dict[tuple[Path, str], int] = {}
    for tree in trees.values():
        for state in tree.states.values():
            for node in tree.chain(state.node) or []:
                uses[tree.folder, node.key] = uses.get((tree.folder, node.key), 0) + 1
    now = time.time()
    useless = [idle for tree in trees.values() for idle in tree.useless(now)]
    for idle in useless:
        total -= idle.size * delete(idle)
    gone = {idle.path for idle in useless}
    states = [s for tree in trees.values() for s in tree.states.values() if s.path not in gone]
    # A time to come is from a clock that was set back since: the oldest there is.
    for state in sorted(states, key=lambda s: s.used if s.used <= now + GRACE_SECONDS else 0.0):
        if total <= budget:
            break
        dropped += 1
        total -= state.size * delete(state)
        tree = trees[state.node.folder]
        for node in tree.chain(state.node) or []:
            uses[tree.folder, node.key] -= 1
            if not uses[tree.folder, node.key]:
                rows = tree.rows[node.key]
                total -= rows.size * delete(rows)
    return dropped, before - total
