"""The snapshots that prompts can go on from: the newest in memory, all of them on disk."""

from collections.abc import Sequence

import numpy as np

from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache

# Snapshots in memory. Each holds its own recurrent state; they share keys and values.
MEMORY_SNAPSHOTS = 4
# Distance between snapshots of a long prompt: a cancelled prefill goes on from the last one.
CHECKPOINT_TOKENS = 8192
# Shortest prefix to store for other conversations with the same system prompt and tools. Reading
# a shorter one takes no longer than loading it.
MIN_SHARED_TOKENS = 256


class SnapshotCache:
    """Snapshots of the prompts of one conversation, or of several at the same time.

    Args:
        disk: None for memory only.
        shared_bytes: what the snapshots of several conversations may take together in memory; the
            least recently used are dropped first. None for one conversation: the newest stay.
    """

    def __init__(self, disk: DiskSnapshotCache | None = None, *, shared_bytes: int | None = None):
        self.disk = disk
        self._shared_bytes = shared_bytes
        self._memory: list[tuple[list[int], Snapshot]] = []
        self._unwritten: list[tuple[list[int], Snapshot]] = []

    def longest_prefix(self, ids: Sequence[int]) -> int:
        """Number of these tokens that need no prefill."""
        on_disk = self.disk.longest_prefix(ids) if self.disk else 0
        return max([on_disk, *(len(prefix) for prefix, _ in self._prefixes(ids))])

    def restore(self, ids: Sequence[int], cache: Cache) -> None:
        """Restore the longest stored proper prefix of `ids`; no prefix leaves the cache as it is.

        With a disk, snapshots of other prompts are dropped from memory, unless they are shared.
        """
        prefixes = self._prefixes(ids)
        prefix, snapshot = max(prefixes, key=lambda entry: len(entry[0]), default=([], None))
        if self.disk is not None:
            if self._shared_bytes is None:
                # The others are on disk too, and would keep keys and values alive that this turn
                # replaces.
                self._memory = prefixes
            if self.disk.longest_prefix(ids) > len(prefix):
                restored = self.disk.restore(ids, cache)
                if restored > len(prefix):
                    self._remember(list(ids[:restored]), cache.snapshot())
                    return
            self.disk.report_other_numbers(ids, len(prefix))
        if snapshot is not None:
            cache.restore(snapshot)
            self._remember(prefix, snapshot)

    def add(self, ids: Sequence[int], snapshot: Snapshot) -> None:
        """Store the snapshot after `ids` in memory; `write` brings it to disk."""
        assert snapshot.offset == len(ids)
        self._remember(list(ids), snapshot)
        if self.disk is not None:
            self._unwritten.append((list(ids), snapshot))

    def write(self) -> None:
        """Hand the snapshots added since the last call to the writer thread."""
        unwritten, self._unwritten = self._unwritten, []
        for ids, snapshot in unwritten:
            assert self.disk is not None
            self.disk.add(ids, snapshot)

    def forget(self) -> None:
        """Drop all snapshots that are in memory only."""
        self._memory, self._unwritten = [], []

    def keep_within(self, size: int) -> None:
        """Drop the least recently used snapshots from memory until the rest takes `size` bytes."""
        while self._memory and self._nbytes() > size:
            del self._memory[0]

    def files(self, ids: Sequence[int]) -> list[str]:
        """The files on disk with tokens of these ids: see `DiskSnapshotCache.files`."""
        return self.disk.files(ids) if self.disk else []

    def _remember(self, ids: list[int], snapshot: Snapshot) -> None:
        """Put a snapshot last in memory, once."""
        self._memory = [entry for entry in self._memory if entry[0] != ids]
        self._memory.append((ids, snapshot))
        if self._shared_bytes is None:
            self._memory = self._memory[-MEMORY_SNAPSHOTS:]
        else:
            self.keep_within(self._shared_bytes)

    def _nbytes(self) -> int:
        """Bytes of the snapshots in memory. Keys and values that several share count once."""
        arrays = {id(a): a.nbytes for _, snapshot in self._memory for a in snapshot.arrays}
        return sum(arrays.values())

    def _prefixes(self, ids: Sequence[int]) -> list[tuple[list[int], Snapshot]]:
        """The snapshots in memory whose tokens are a proper prefix of `ids`."""
        return [
            (prefix, snapshot)
            for prefix, snapshot in self._memory
            if len(prefix) < len(ids) and list(ids[: len(prefix)]) == prefix
        ]


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(differ[0]) if differ.size else length
