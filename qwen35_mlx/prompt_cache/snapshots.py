"""The states that a chat comes back to: the newest in memory, all of them on disk."""

from collections.abc import Sequence

import numpy as np

from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache

# In memory. Each holds one recurrent state; they share keys and values.
KEPT_STATES = 4
# A long prompt is kept every so many tokens, so that one that was stopped goes on from there.
CHECKPOINT = 8192
# Other conversations may begin with the same system prompt and tools; a short one is as quickly
# read as a state is loaded.
SHARED_TOKENS = 256


class SnapshotCache:
    """States of the prompts of one conversation.

    Args:
        states: on disk; None for memory only.
    """

    def __init__(self, states: DiskSnapshotCache | None = None):
        self.states = states
        self._memory: list[tuple[list[int], Snapshot]] = []
        self._unwritten: list[tuple[list[int], Snapshot]] = []

    def longest(self, ids: Sequence[int]) -> int:
        """How many of these tokens need no prefill."""
        on_disk = self.states.longest(ids) if self.states else 0
        return max([on_disk, *(len(known) for known, _ in self._fitting(ids))])

    def resume(self, ids: Sequence[int], cache: Cache) -> None:
        """Bring the cache to the longest proper prefix of `ids` that is known."""
        fitting = self._fitting(ids)
        known, snapshot = max(fitting, key=lambda state: len(state[0]), default=([], None))
        if self.states is not None:
            # The others are on disk, and would hold keys and values that this turn replaces.
            self._memory = fitting
            if self.states.longest(ids) > len(known):
                restored = self.states.restore(ids, cache)
                if restored > len(known):
                    self._remember(list(ids[:restored]), cache.snapshot())
                    return
        if snapshot is not None:
            cache.restore(snapshot)

    def keep(self, ids: Sequence[int], snapshot: Snapshot) -> None:
        """Remember a state; `write` brings it to disk."""
        assert snapshot.offset == len(ids)
        self._remember(list(ids), snapshot)
        if self.states is not None:
            self._unwritten.append((list(ids), snapshot))

    def write(self) -> None:
        """Hand what was kept since the last call to the thread that writes."""
        waiting, self._unwritten = self._unwritten, []
        for ids, snapshot in waiting:
            assert self.states is not None
            self.states.keep(ids, snapshot)

    def _remember(self, ids: list[int], snapshot: Snapshot) -> None:
        self._memory = [*self._memory[1 - KEPT_STATES :], (ids, snapshot)]

    def _fitting(self, ids: Sequence[int]) -> list[tuple[list[int], Snapshot]]:
        return [
            (known, snapshot)
            for known, snapshot in self._memory
            if len(known) < len(ids) and list(ids[: len(known)]) == known
        ]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(differ[0]) if differ.size else length
