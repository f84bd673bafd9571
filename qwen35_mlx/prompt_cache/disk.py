"""Snapshots on disk, stored under the tokens they belong to.

Keys and values are written in segments: each turn writes only its own. The recurrent state is
written whole at every stored position. Nothing on disk is trusted: every byte read is checked, the
tokens themselves are compared, and a file that cannot be used is deleted, reported and computed
again.
"""

import errno
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import utime
from pathlib import Path
from shutil import disk_usage

from qwen35_mlx.lifetime import close_at_exit
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import prefix_tree, reading
from qwen35_mlx.prompt_cache import tensors as snapshot_tensors
from qwen35_mlx.prompt_cache.fingerprint import ranks_of, whole_of
from qwen35_mlx.prompt_cache.prefix_tree import KV, STATE, PrefixTree, Segment, StoredFile
from qwen35_mlx.prompt_cache.reading import UnusableFileError
from qwen35_mlx.prompt_cache.tensors import Tensors

BUDGET = 20 * 10**9
# Bytes of copied snapshots that wait to be written. Beyond that the engine waits.
PENDING_BYTES = 2 * 10**9
# Free space that snapshots leave on the disk, so that conversations can always be saved.
RESERVE = 256 * 10**6


@dataclass(frozen=True, slots=True)
class _Write:
    """Files of one segment to be written, by kind; keys and values come before the state."""

    segment: Segment
    files: Mapping[str, Tensors]
    size: int


class DiskSnapshotCache:
    """The snapshots of one network in a folder that other processes may share.

    Use it only in the engine's thread; a thread of its own does the writing. If it is still open
    when Python exits, it is closed then.

    Args:
        folder: of all models; it is made if it is missing.
        model: the network's fingerprint, and which part of it a process has: names of files follow
            from the fingerprint and the tokens.
        budget: bytes that the files of all models may take together; None for `BUDGET`.
        notice: called with lines for the user, in any thread; without it, `notices` returns them.

    Attributes:
        written_bytes, written_seconds: totals so far.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        budget: int | None = None,
        notice: Callable[[str], None] | None = None,
    ):
        self.folder = folder
        self.model = model
        self.budget = BUDGET if budget is None else budget
        self.written_bytes = 0
        self.written_seconds = 0.0
        self._model_folder = folder / model
        self._root = prefix_tree.root_key(whole_of(model))
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._notify = notice or self._notices.put
        self._ignored: set[Path] = set()  # files that can be neither used nor deleted
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._pending: dict[str, _Write] = {}
        self._pending_changed = threading.Condition()
        self._failure_reported = False  # since the last write that succeeded
        self._closed = False
        prefix_tree.remove_garbage(folder)
        self._writer = threading.Thread(target=self._write_all, name="snapshots", daemon=True)
        self._writer.start()
        close_at_exit(self)

    def notices(self) -> list[str]:
        """Lines for the user since the last call."""
        lines = []
        with suppress(queue.Empty):
            while True:
                lines.append(self._notices.get_nowait())
        return lines

    def longest_prefix(self, ids: Sequence[int]) -> int:
        """Number of tokens that `restore` would restore, unless files turn out to be damaged."""
        return max(self.ends(ids), default=0)

    def restore(self, ids: Sequence[int], cache: Cache) -> int:
        """Restore the longest stored proper prefix of `ids` into the cache.

        Returns:
            the length of the prefix; 0 for none, and the cache stays as it is.
        """
        self.flush()
        while candidates := self._candidates(ids):
            segment = candidates[-1]
            snapshot = self._read(segment, ids, mtp=cache.head is not None)
            if snapshot is not None:
                cache.restore(snapshot)
                return segment.end
        return 0

    def ends(self, ids: Sequence[int]) -> list[int]:
        """The lengths of the proper prefixes of `ids` that can be restored, shortest first."""
        return [segment.end for segment in self._candidates(ids)]

    def read(self, ids: Sequence[int], end: int, *, mtp: bool) -> Snapshot | None:
        """The snapshot after `end` of the ids; None if it cannot be read.

        Args:
            mtp: whether to read the rows of the MTP head.
        """
        self.flush()
        found = next((segment for segment in self._candidates(ids) if segment.end == end), None)
        return None if found is None else self._read(found, ids, mtp=mtp)

    def report_other_numbers(self, ids: Sequence[int], restored: int) -> None:
        """Report it if another number of processes has stored more of `ids` than was restored."""
        now = ranks_of(self.model)
        for folder in prefix_tree.model_folders(self.folder):
            before = ranks_of(folder.name)
            if before in (0, now) or whole_of(folder.name) != whole_of(self.model):
                continue
            stored = PrefixTree.of(folder).matching(ids, self._root)
            if any(restored < segment.end < len(ids) for segment in stored):
                self._notify(
                    f"this conversation's states were stored by {_processes(before)}, and "
                    f"{_processes(now)} run{'s' * (now == 1)} the model: it is read anew"
                )
                return

    def add(self, ids: Sequence[int], snapshot: Snapshot) -> None:
        """Write the snapshot after `ids`, unless it is stored. Returns before it is on disk."""
        assert snapshot.offset == len(ids)
        assert ids
        tree = self._tree()
        matching = tree.matching(ids, self._root)
        nearest = matching[-1] if matching else None
        if nearest is not None and nearest.end == len(ids):
            if nearest.key in tree.states:
                with suppress(OSError):
                    utime(nearest.path(STATE))
            else:
                self._queue(nearest, {STATE: snapshot_tensors.state_tensors(snapshot)})
            return
        start, parent = (nearest.end, nearest.key) if nearest else (0, self._root)
        key = prefix_tree.child_key(parent, ids[start:])
        segment = Segment(self._model_folder, start, len(ids), parent, key)
        chain = tree.chain(nearest) if nearest else None
        chain_bytes = sum(tree.kv[earlier.key].size for earlier in chain or [])
        kv = snapshot_tensors.kv_tensors(snapshot, start, ids)
        state = snapshot_tensors.state_tensors(snapshot)
        self._queue(segment, {KV: kv, STATE: state}, chain_bytes)

    def files(self, ids: Sequence[int]) -> list[str]:
        """The files with tokens of these ids, stored or about to be: `<model>/<name>` without kind.

        These are the files along the stored prefixes of `ids`.
        """
        return [f"{self.model}/{seg.stem}" for seg in self._tree().matching(ids, self._root)]

    def flush(self) -> None:
        """Wait until every snapshot added is on disk, or its write has failed."""
        with self._pending_changed:
            self._pending_changed.wait_for(lambda: not self._pending)

    def close(self, timeout: float | None = None) -> None:
        """Write what is pending and end the thread; wait at most `timeout` seconds for that.

        Later snapshots are not written, and a second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._writes.put(None)
        self._writer.join(timeout)

    def finish(self) -> None:
        """End the thread after what is pending, without waiting. No snapshot may be added."""
        self._writes.put(None)

    def _tree(self) -> PrefixTree:
        """What is on disk or about to be."""
        # Pending writes are listed first: one may finish before the folder is listed, and must
        # then be in one of the two.
        with self._pending_changed:
            pending = list(self._pending.values())
        stored = [
            file
            for file in prefix_tree.stored_files(self._model_folder)
            if file.path not in self._ignored
        ]
        on_disk = {(file.segment.key, file.kind) for file in stored}
        for write in pending:
            for kind, tensors in write.files.items():
                if (write.segment.key, kind) not in on_disk:
                    size = snapshot_tensors.nbytes(tensors)
                    stored.append(StoredFile(write.segment, kind, size, time.time()))
        return PrefixTree(self._model_folder, stored)

    def _candidates(self, ids: Sequence[int]) -> list[Segment]:
        """The segments at whose end a proper prefix of `ids` can be restored, shortest first."""
        tree = self._tree()
        matching = tree.matching(ids, self._root)
        return [seg for seg in matching if seg.key in tree.states and seg.end < len(ids)]

    def _read(self, segment: Segment, ids: Sequence[int], *, mtp: bool) -> Snapshot | None:
        """The snapshot at the end of one of the candidates; None if a file of it is discarded."""
        chain = self._tree().chain(segment)
        assert chain is not None
        try:
            snapshot = reading.read_snapshot(self.model, chain, ids, mtp=mtp)
        except UnusableFileError as error:
            # Its frames hold the memory that was read into; the next attempt needs as much.
            error.__traceback__ = None
            self._discard(error)
            return None
        with suppress(OSError):
            utime(segment.path(STATE))
        return snapshot

    def _queue(self, segment: Segment, files: Mapping[str, Tensors], chain_bytes: int = 0) -> None:
        if self._closed:
            return
        size = sum(map(snapshot_tensors.nbytes, files.values()))
        if chain_bytes + size > self.budget:
            self._report_failure(
                f"the conversation's state takes {(chain_bytes + size) / 1e9:.1f} GB, more than "
                f"the {self.budget / 1e9:.1f} GB for states: it is not kept on disk"
            )
            return
        write = _Write(segment, files, size)
        with self._pending_changed:
            self._pending_changed.wait_for(
                lambda: sum(pending.size for pending in self._pending.values()) <= PENDING_BYTES
            )
            self._pending[segment.key] = write
        self._writes.put(write)

    def _write_all(self) -> None:
        """The writer thread."""
        while (write := self._writes.get()) is not None:
            try:
                started = time.perf_counter()
                self._check_free_space(write)
                self._write(write)
                self.written_seconds += time.perf_counter() - started
                self._failure_reported = False
                dropped, freed = prefix_tree.evict(self.folder, self.budget)
                if dropped:
                    self._notify(
                        f"{dropped} stored state{'s' * (dropped > 1)} of older turns dropped "
                        f"({freed / 1e9:.2f} GB), to stay within {self.budget / 1e9:.1f} GB"
                    )
            except Exception as error:  # whatever it is, the next snapshot is written
                why = error.strerror if isinstance(error, OSError) else None
                self._report_failure(
                    f"the conversation's state cannot be saved in {self.folder} "
                    f"({why or error or type(error).__name__}): opening it again will read it anew"
                )
            finally:
                with self._pending_changed:
                    self._pending.pop(write.segment.key, None)
                    self._pending_changed.notify_all()

    def _check_free_space(self, write: _Write) -> None:
        # Not the folders above: if those are gone, so are the conversations.
        for folder in (self.folder, write.segment.folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        free = disk_usage(self.folder).free
        if free - write.size < RESERVE:
            raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free on the disk")

    def _write(self, write: _Write) -> None:
        segment = write.segment
        for kind, tensors in write.files.items():
            path = segment.path(kind)
            if not path.exists() or path in self._ignored:
                metadata = reading.metadata(self.model, segment, kind)
                self.written_bytes += snapshot_file.write(path, metadata, tensors)
                self._ignored.discard(path)

    def _report_failure(self, line: str) -> None:
        """Report the first of several failures in a row."""
        if not self._failure_reported:
            self._failure_reported = True
            self._notify(line)

    def _discard(self, error: UnusableFileError) -> None:
        """Delete a file that cannot be used, or at least ignore it from now on."""
        path = error.path
        self._notify(
            f"a stored state {error.reason} ({path.name[:15]}... in {path.parent}): "
            "that part of the conversation is read anew"
        )
        try:
            path.unlink(missing_ok=True)
        except OSError:
            self._ignored.add(path)


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
