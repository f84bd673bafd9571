"""States on disk of which every process keeps its own part."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from qwen35_mlx.distributed.leader import Handle, LeadingNetwork, LeadingSnapshot
from qwen35_mlx.model.cache import Snapshot
from qwen35_mlx.prompt_cache import prefix_tree
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.fingerprint import of_part
from qwen35_mlx.prompt_cache.prefix_tree import Segment


class LeadingStates(DiskSnapshotCache):
    """The snapshots of the first process, which count only where the others have theirs.

    Each process has a folder of its own, on its own machine, and a fingerprint that names its rank
    and the number of ranks: others never take its files for theirs.

    Args:
        network: of all processes; the others keep its states in a folder of their own.
        model: fingerprint of the whole network. Names of files follow from it in all processes, so
            that the others can delete theirs of conversations that are deleted.
        folder, budget, notice: as for `DiskSnapshotCache`.
    """

    def __init__(
        self,
        network: LeadingNetwork,
        folder: Path,
        model: str,
        *,
        budget: int | None = None,
        notice: Callable[[str], None] | None = None,
    ):
        shard = network.parallel.shard
        assert shard is not None
        super().__init__(folder, of_part(model, shard), budget=budget, notice=notice)
        self._followers = network.followers
        self._handle = Handle(self._followers)
        self._followers.send(
            "open_states",
            **{"states": self._handle.number, "budget": budget, "model": model},
            keys=[file.segment.key for file in prefix_tree.stored_files(folder / self.model)],
        )

    def add(self, ids: Sequence[int], snapshot: Snapshot) -> None:
        assert isinstance(snapshot, LeadingSnapshot)
        self._followers.send(
            "add_state", states=self._handle.number, ids=list(ids), snapshot=snapshot.number
        )
        super().add(ids, snapshot)

    def close(self, timeout: float | None = None) -> None:
        if self._closed:
            return
        super().close(timeout)
        self._followers.ask("close_states", states=self._handle.number, seconds=timeout)

    def _candidates(self, ids: Sequence[int]) -> list[Segment]:
        found = super()._candidates(ids)
        if not found:
            return found
        replies = self._followers.ask("find_states", states=self._handle.number, ids=list(ids))
        ends = set.intersection(*(set(reply["ends"]) for reply in replies))
        return [segment for segment in found if segment.end in ends]

    def _read(self, segment: Segment, ids: Sequence[int], *, mtp: bool) -> Snapshot | None:
        own = super()._read(segment, ids, mtp=mtp)
        if own is None:
            return None
        handle = Handle(self._followers)
        replies = self._followers.ask(
            "read_state",
            **{"states": self._handle.number, "snapshot": handle.number},
            **{"ids": list(ids), "end": segment.end, "mtp": mtp},
        )
        if not all(reply["read"] for reply in replies):
            return None  # who could not read it has discarded it
        if not all(reply["head"] for reply in replies):
            own = replace(own, head=None)
        return LeadingSnapshot(own.offset, own.layers, own.head, handle)
