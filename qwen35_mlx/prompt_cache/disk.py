"""Model states on disk: what the network remembers of a prompt, kept under the prompt's tokens.

Keys and values are written in stretches, each turn only its own; the recurrent state is written
whole at every position that is kept. Nothing on disk is trusted: every byte read is checked, the
tokens themselves are compared, and what does not fit is deleted, told and computed again.
"""

import errno
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from os import utime
from pathlib import Path
from shutil import disk_usage

import numpy as np

from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.prompt_cache import file as state_file
from qwen35_mlx.prompt_cache import folder as state_folder
from qwen35_mlx.prompt_cache import tensors as state_tensors
from qwen35_mlx.prompt_cache.file import UnusableError
from qwen35_mlx.prompt_cache.folder import ROWS, STATE, Node, Stored, Tree
from qwen35_mlx.prompt_cache.tensors import Tensors

BUDGET = 20 * 10**9
# Copies of states that wait for the disk; beyond that, the model waits.
PENDING_BYTES = 2 * 10**9
# Threads that read files: enough for a fast disk, and for checksums at a few GB/s each.
READERS = 8
# What states leave free on the disk: conversations need some, and must never lack it.
RESERVE = 256 * 10**6


@dataclass(frozen=True, slots=True)
class _Job:
    """Files of one position that are to be written, rows before state."""

    node: Node
    parts: Mapping[str, Tensors]
    size: int


class DiskSnapshotCache:
    """The states of one network in one folder, which other processes may share.

    Belongs to the engine's thread, but for the one that writes.

    Args:
        folder: of all models; it is made if it is missing.
        model: the network's fingerprint.
        budget: bytes that the states of all models may take together; None for `BUDGET`.
        tell: takes lines for the user, in any thread; without it they wait for `notices`.

    Attributes:
        written_bytes, written_seconds: so far, for figures.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        budget: int | None = None,
        tell: Callable[[str], None] | None = None,
    ):
        self.folder = folder
        self.model = model
        self.budget = BUDGET if budget is None else budget
        self.written_bytes = 0
        self.written_seconds = 0.0
        self._own = folder / model
        self._root = state_folder.root_key(model)
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._tell = tell or self._notices.put
        self._bad: set[Path] = set()  # unusable, and not to be deleted either
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: dict[str, _Job] = {}
        self._changed = threading.Condition()
        self._troubled = False  # the last write failed, and that was told
        state_folder.clean(folder)
        self._writer = threading.Thread(target=self._write_all, name="states", daemon=True)
        self._writer.start()

    def notices(self) -> list[str]:
        """Lines for the user since the last call."""
        lines = []
        with suppress(queue.Empty):
            while True:
                lines.append(self._notices.get_nowait())
        return lines

    def longest(self, ids: Sequence[int]) -> int:
        """How many tokens `restore` would bring back, unless files turn out to be damaged."""
        return max((node.end for node in self._candidates(ids)), default=0)

    def restore(self, ids: Sequence[int], cache: Cache) -> int:
        """Bring the cache to the longest stored proper prefix of `ids`; its length, 0 for none."""
        self.flush()
        while candidates := self._candidates(ids):
            node = candidates[-1]
            chain = self._tree().chain(node)
            assert chain is not None
            try:
                cache.restore(self._read(chain, ids))
            except _BadFileError as bad:
                # Its frames hold the memory that was read into, and the next try takes as much.
                bad.__traceback__ = None
                self._discard(bad)
                continue
            with suppress(OSError):
                utime(node.path(STATE))
            return node.end
        return 0

    def keep(self, ids: Sequence[int], snapshot: Snapshot) -> None:
        """Write the state after `ids`, unless it is there. Returns before it is on disk."""
        assert snapshot.offset == len(ids)
        assert ids
        tree = self._tree()
        along = tree.along(ids, self._root)
        nearest = along[-1] if along else None
        if nearest is not None and nearest.end == len(ids):
            if nearest.key in tree.states:
                with suppress(OSError):
                    utime(nearest.path(STATE))
                return
            parts = {STATE: state_tensors.of_state(snapshot)}
            self._queue(nearest, parts)
            return
        start, parent = (nearest.end, nearest.key) if nearest else (0, self._root)
        node = Node(self._own, start, len(ids), parent, state_folder.next_key(parent, ids[start:]))
        chained = sum(tree.rows[n.key].size for n in tree.chain(nearest) or []) if nearest else 0
        rows, state = state_tensors.of_rows(snapshot, start, ids), state_tensors.of_state(snapshot)
        self._queue(node, {ROWS: rows, STATE: state}, chained)

    def flush(self) -> None:
        """Wait until all that was kept is on disk, or has failed to get there."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)

    def close(self, timeout: float | None = None) -> None:
        """Write what is waiting, and end the thread."""
        self._jobs.put(None)
        self._writer.join(timeout)

    def _tree(self) -> Tree:
        # What waits first: it may be on disk the next moment, and must be in one of the two.
        with self._changed:
            jobs = list(self._pending.values())
        stored = [s for s in state_folder.files(self._own) if s.path not in self._bad]
        there = {(s.node.key, s.kind) for s in stored}
        for job in jobs:
            for kind, tensors in job.parts.items():
                if (job.node.key, kind) not in there:
                    stored.append(Stored(job.node, kind, state_tensors.size(tensors), time.time()))
        return Tree(self._own, stored)

    def _candidates(self, ids: Sequence[int]) -> list[Node]:
        tree = self._tree()
        along = tree.along(ids, self._root)
        return [node for node in along if node.key in tree.states and node.end < len(ids)]

    def _queue(self, node: Node, parts: Mapping[str, Tensors], chained: int = 0) -> None:
        size = sum(map(state_tensors.size, parts.values()))
        if chained + size > self.budget:
            self._tell_once(
                f"the conversation's state takes {(chained + size) / 1e9:.1f} GB, more than the "
                f"{self.budget / 1e9:.1f} GB for states: it is not kept on disk"
            )
            return
        job = _Job(node, parts, size)
        with self._changed:
            self._changed.wait_for(
                lambda: sum(j.size for j in self._pending.values()) <= PENDING_BYTES
            )
            self._pending[node.key] = job
        self._jobs.put(job)

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                started = time.perf_counter()
                self._check_room(job)
                self._write(job)
                self.written_seconds += time.perf_counter() - started
                self._troubled = False
                dropped, freed = state_folder.evict(self.folder, self.budget)
                if dropped:
                    self._tell(
                        f"{dropped} stored state{'s' * (dropped > 1)} of older turns dropped "
                        f"({freed / 1e9:.2f} GB), to stay within {self.budget / 1e9:.1f} GB"
                    )
            except Exception as error:  # whatever it is, the next one is written
                why = error.strerror if isinstance(error, OSError) else None
                self._tell_once(
                    f"the conversation's state cannot be saved in {self.folder} "
                    f"({why or error or type(error).__name__}): opening it again will read it anew"
                )
            finally:
                with self._changed:
                    self._pending.pop(job.node.key, None)
                    self._changed.notify_all()

    def _check_room(self, job: _Job) -> None:
        job.node.folder.mkdir(parents=True, exist_ok=True)
        free = disk_usage(self.folder).free
        if free - job.size < RESERVE:
            raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free on the disk")

    def _write(self, job: _Job) -> None:
        node = job.node
        about = {
            "model": self.model,
            "parent": node.parent,
            "key": node.key,
            "start": str(node.start),
            "end": str(node.end),
        }
        for kind, tensors in job.parts.items():
            path = node.path(kind)
            if not path.exists() or path in self._bad:
                self.written_bytes += state_file.write(path, {"kind": kind, **about}, tensors)
                self._bad.discard(path)

    def _tell_once(self, line: str) -> None:
        if not self._troubled:
            self._troubled = True
            self._tell(line)

    def _discard(self, bad: "_BadFileError") -> None:
        """Delete a file that cannot be used, or at least never look at it again."""
        self._tell(
            f"a stored state {bad.reason} ({bad.path.name[:15]}... in {bad.path.parent}): "
            "that part of the conversation is read anew"
        )
        try:
            bad.path.unlink(missing_ok=True)
        except OSError:
            self._bad.add(bad.path)

    def _read(self, chain: Sequence[Node], ids: Sequence[int]) -> Snapshot:
        """The snapshot at the end of a chain.

        Raises:
            _BadFileError: one of its files is not what it should be; the first one along the chain.
        """
        tokens = np.asarray(ids[: chain[-1].end], dtype="<i4")
        path = chain[0].path(ROWS)
        with _told(path), state_file.opened(path) as (_, header):
            self._check(chain[0], ROWS, header)
            layout = _layout(header)
        room = state_tensors.Room(layout, chain[-1].end, READERS)
        # A reader has one file open at a time: chains are longer than what may be open at once.
        with ThreadPoolExecutor(READERS) as readers:
            reads = [readers.submit(self._read_rows, node, tokens, room) for node in chain]
            state = readers.submit(self._read_state, chain[-1])
            try:
                room.make()
                for read in reads:
                    read.result()
                return room.snapshot(state.result())
            finally:
                readers.shutdown(cancel_futures=True)

    def _read_rows(self, node: Node, tokens: np.ndarray, room: state_tensors.Room) -> None:
        path = node.path(ROWS)
        with _told(path), state_file.opened(path) as (file, header):
            self._check(node, ROWS, header)
            own = state_file.read_tensor(file, header.tensors["tokens"])
            if not np.array_equal(own, tokens[node.start : node.end]):
                raise UnusableError("is of other tokens")
            if _layout(header) != room.layout:
                raise UnusableError("does not fit its neighbours")
            for name in room.layout:
                parts = room.parts(name, node.start, node.end)
                state_file.read_tensor(file, header.tensors[name], parts)

    def _read_state(self, node: Node) -> Tensors:
        path = node.path(STATE)
        with _told(path), state_file.opened(path) as (file, header):
            self._check(node, STATE, header)
            return {
                name: (entry.dtype, state_file.read_tensor(file, entry))
                for name, entry in header.tensors.items()
            }

    def _check(self, node: Node, kind: str, header: state_file.Header) -> None:
        stated = header.metadata
        if stated.get("model") != self.model:
            raise UnusableError("is of another model")
        wanted = {"kind": kind, "parent": node.parent, "key": node.key}
        wanted |= {"start": str(node.start), "end": str(node.end)}
        if any(stated.get(name) != value for name, value in wanted.items()):
            raise UnusableError("has another's name")


def _layout(header: state_file.Header) -> state_tensors.Layout:
    layout = {}
    for name, entry in header.tensors.items():
        if name != "tokens":
            heads, _, width = entry.shape
            layout[name] = (entry.dtype, heads, width)
    return layout


class _BadFileError(Exception):
    def __init__(self, path: Path, reason: str):
        super().__init__(reason)
        self.path = path
        self.reason = reason


class _told:  # noqa: N801 - reads as a statement
    """Whatever is unusable within is so because of this file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UnusableError):
            raise _BadFileError(self.path, str(error)) from None
        if isinstance(error, KeyError | ValueError):
            raise _BadFileError(self.path, "is incomplete") from None
