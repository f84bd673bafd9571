"""Stored states as a tree of token prefixes, built from file names alone; deletion and eviction.

    <folder>/<model>/<start>-<end>-<parent>-<key>.kv.safetensors      keys and values, start to end
    <folder>/<model>/<start>-<end>-<parent>-<key>.state.safetensors   recurrent state at end

A key is a hash of all tokens up to `end`, chained through its parent's key, so equal prefixes are
stored once. There is no index that could be wrong: a file is complete or absent, and its
modification time is the time of its last use. A position can be restored if its state is there and
the keys and values of its whole chain.
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

# The kinds of file, as in their names.
KV, STATE = "kv", "state"
# Keys and values without a state are left alone for this long: the process that wrote them may be
# about to write the state.
GRACE_SECONDS = 3600.0

_NAME = re.compile(rf"(\d+)-(\d+)-([0-9a-f]{{32}})-([0-9a-f]{{32}})\.({KV}|{STATE})\.safetensors$")


@dataclass(frozen=True)
class Segment:
    """A run of tokens, `start` to `end`, after all those of its parent.

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
        """The file of keys and values (`KV`) or of the recurrent state at the end (`STATE`)."""
        return self.folder / f"{self.stem}.{kind}.safetensors"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file on disk.

    Attributes:
        kind: `KV` or `STATE`.
        size: bytes.
        used: when it was last used, in seconds since 1970.
    """

    segment: Segment
    kind: str
    size: int
    used: float

    @property
    def path(self) -> Path:
        return self.segment.path(self.kind)


def root_key(model: str) -> str:
    """The key of no tokens at all."""
    return hashlib.blake2b(model.encode(), digest_size=16).hexdigest()


def child_key(parent: str, ids: Sequence[int] | np.ndarray) -> str:
    """The key of the tokens of `parent` followed by `ids`."""
    raw = np.asarray(ids, dtype="<i4").tobytes()
    return hashlib.blake2b(bytes.fromhex(parent) + raw, digest_size=16).hexdigest()


def stored_files(folder: Path) -> Iterator[StoredFile]:
    """All files of one model. Files with other names are ignored."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := _NAME.match(entry.name):
                with suppress(OSError):  # deleted meanwhile
                    status = entry.stat()
                    start, end, parent, key, kind = match.groups()
                    segment = Segment(folder, int(start), int(end), parent, key)
                    yield StoredFile(segment, kind, status.st_size, status.st_mtime)


class PrefixTree:
    """The segments of one model, as they were on disk at one moment.

    Attributes:
        kv, states: the files of each kind, by key.
    """

    def __init__(self, folder: Path, stored: Sequence[StoredFile]):
        self.folder = folder
        self.kv = {file.segment.key: file for file in stored if file.kind == KV}
        self.states = {file.segment.key: file for file in stored if file.kind == STATE}
        self._children: dict[str, list[Segment]] = {}
        for file in self.kv.values():
            self._children.setdefault(file.segment.parent, []).append(file.segment)

    @classmethod
    def of(cls, folder: Path) -> "PrefixTree":
        """The tree of the files in a model's folder now."""
        return cls(folder, list(stored_files(folder)))

    def chain(self, segment: Segment) -> list[Segment] | None:
        """The segments from the first token to this one's end; None if one is missing."""
        chain: list[Segment] = []
        at: Segment | None = segment
        while at is not None and len(chain) <= len(self.kv):
            if at.key not in self.kv:
                return None
            chain.append(at)
            if at.start == 0:
                return chain[::-1]
            before = self.kv.get(at.parent)
            at = before.segment if before and before.segment.end == at.start else None
        return None

    def matching(self, ids: Sequence[int], root: str) -> list[Segment]:
        """The segments whose whole prefix `ids` begins with, shortest first."""
        tokens = np.asarray(ids, dtype="<i4")
        found: list[Segment] = []
        waiting: list[tuple[str, int]] = [(root, 0)]
        while waiting:
            key, position = waiting.pop()
            # One hash decides about all children that end at the same position.
            by_end: dict[int, dict[str, Segment]] = {}
            for child in self._children.get(key, ()):
                if child.start == position:
                    by_end.setdefault(child.end, {})[child.key] = child
            for end, children in by_end.items():
                if position < end <= len(ids):
                    child = children.get(child_key(key, tokens[position:end]))
                    if child is not None:
                        found.append(child)
                        waiting.append((child.key, end))
        return sorted(found, key=lambda segment: segment.end)

    def garbage(self, now: float) -> list[StoredFile]:
        """States whose chain is incomplete, and old keys and values that no state needs."""
        needed: set[str] = set()
        for state in self.states.values():
            needed.update(segment.key for segment in self.chain(state.segment) or ())
        broken = [file for file in self.states.values() if file.segment.key not in needed]
        unneeded = [file for file in self.kv.values() if file.segment.key not in needed]
        # A time in the future means that the clock was set back since.
        return broken + [file for file in unneeded if abs(now - file.used) > GRACE_SECONDS]


def model_folders(folder: Path) -> list[Path]:
    """The folders of all models, each named after the model's fingerprint."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def total_bytes(folder: Path) -> int:
    """Bytes of all files of all models."""
    return sum(file.size for model in model_folders(folder) for file in stored_files(model))


def remove_garbage(folder: Path) -> int:
    """Delete files that no process will ever use (`PrefixTree.garbage`), and count them."""
    removed = 0
    for model in model_folders(folder):
        removed += remove_abandoned(model)
        for file in PrefixTree.of(model).garbage(time.time()):
            removed += delete(file)
    return removed


def delete(file: StoredFile) -> bool:
    """Delete a file; False if it is gone already or cannot be deleted."""
    with suppress(OSError):
        file.path.unlink()
        return True
    return False


def evict(folder: Path, budget: int) -> tuple[int, int]:
    """Delete states, the least recently used first, until all files take at most `budget` bytes.

    Keys and values are deleted with the last state that needs them.

    Returns:
        the number of deleted states, and the bytes freed in all.
    """
    stored = [file for model in model_folders(folder) for file in stored_files(model)]
    total = sum(file.size for file in stored)
    if total <= budget:
        return 0, 0
    before, dropped = total, 0
    trees = {
        model: PrefixTree(model, [file for file in stored if file.segment.folder == model])
        for model in {file.segment.folder for file in stored}
    }
    # How many states need each segment's keys and values.
    uses: dict[tuple[Path, str], int] = {}
    for tree in trees.values():
        for state in tree.states.values():
            for segment in tree.chain(state.segment) or []:
                uses[tree.folder, segment.key] = uses.get((tree.folder, segment.key), 0) + 1
    now = time.time()
    garbage = [file for tree in trees.values() for file in tree.garbage(now)]
    for file in garbage:
        total -= file.size * delete(file)
    gone = {file.path for file in garbage}
    states = [s for tree in trees.values() for s in tree.states.values() if s.path not in gone]
    # A time in the future means that the clock was set back since: such a state is the oldest.
    for state in sorted(states, key=lambda s: s.used if s.used <= now + GRACE_SECONDS else 0.0):
        if total <= budget:
            break
        dropped += 1
        total -= state.size * delete(state)
        tree = trees[state.segment.folder]
        for segment in tree.chain(state.segment) or []:
            uses[tree.folder, segment.key] -= 1
            if not uses[tree.folder, segment.key]:
                kv = tree.kv[segment.key]
                total -= kv.size * delete(kv)
    return dropped, before - total
