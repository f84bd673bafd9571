"""A stored snapshot, read: its files side by side, straight into MLX's memory, every byte checked.

The rows of an MTP head are optional. They are restored if the files at the end of the chain have
all of them, one after another; if not, the head begins anew, and the rest is restored all the same.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import numpy as np

from qwen35_mlx.model.cache import Snapshot
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache.file import Header, UnusableError
from qwen35_mlx.prompt_cache.prefix_tree import KV, STATE, Segment
from qwen35_mlx.prompt_cache.tensors import HEAD_COUNT, KVLayout, RestoreBuffer, Tensors

# Threads that read files: enough for a fast disk, and for checksums at a few GB/s each.
READERS = 8


class UnusableFileError(Exception):
    """One file of a chain cannot be used.

    Attributes:
        reason: a predicate such as "is damaged".
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(reason)
        self.path = path
        self.reason = reason


def metadata(model: str, segment: Segment, kind: str) -> dict[str, str]:
    """What the file of a segment says about itself."""
    return {
        "kind": kind,
        "model": model,
        "parent": segment.parent,
        "key": segment.key,
        "start": str(segment.start),
        "end": str(segment.end),
    }


def read_snapshot(
    model: str, chain: Sequence[Segment], ids: Sequence[int], *, mtp: bool
) -> Snapshot:
    """The snapshot at the end of a chain.

    Args:
        model: the network's fingerprint.
        ids: the prompt, which begins with the tokens of the chain.
        mtp: whether to read the rows of the MTP head.

    Raises:
        UnusableFileError: for the first file along the chain that cannot be used.
    """
    return _ChainReader(model, chain, ids, mtp).read()


class _ChainReader:
    def __init__(self, model: str, chain: Sequence[Segment], ids: Sequence[int], mtp: bool):
        self._model, self._chain = model, chain
        self._tokens = np.asarray(ids[: chain[-1].end], dtype="<i4")
        with self._opened(chain[0], KV) as (_, header):
            self._layout = _layout(header, "layers.")
        self._head_layout, self._head_rows = self._find_head() if mtp else ({}, 0)
        self._head_complete = self._head_rows > 0
        parts = [(self._layout, chain[-1].end), (self._head_layout, self._head_rows)]
        self._buffer = RestoreBuffer(parts, READERS)

    def read(self) -> Snapshot:
        # Each reader has one file open at a time: a chain may be longer than the limit of open
        # files.
        with ThreadPoolExecutor(READERS) as readers:
            reads = [readers.submit(self._read_kv, segment) for segment in self._chain]
            state = readers.submit(self._read_state, self._chain[-1])
            try:
                self._buffer.allocate()
                for read in reads:
                    read.result()
                head_rows = self._head_rows if self._head_complete else 0
                return self._buffer.snapshot(state.result(), len(self._tokens), head_rows)
            finally:
                readers.shutdown(cancel_futures=True)

    def _find_head(self) -> tuple[KVLayout, int]:
        """The layout of the head's rows, and how many there are at the end of the chain."""
        # What is wrong with the file is reported when all of it is read.
        with suppress(UnusableFileError), self._opened(self._chain[-1], KV) as (file, header):
            return _layout(header, "head.rows."), _head_count(file, header)
        return {}, 0

    def _read_kv(self, segment: Segment) -> None:
        with self._opened(segment, KV) as (file, header):
            own = snapshot_file.read_tensor(file, header.tensors["tokens"])
            if not np.array_equal(own, self._tokens[segment.start : segment.end]):
                raise UnusableError("is of other tokens")
            if _layout(header, "layers.") != self._layout:
                raise UnusableError("does not fit its neighbours")
            for name in self._layout:
                rows = self._buffer.rows(name, segment.start, segment.end)
                snapshot_file.read_tensor(file, header.tensors[name], rows)
            self._read_head(segment, file, header)

    def _read_head(self, segment: Segment, file: FileIO, header: Header) -> None:
        # Each token of the chain adds a row.
        end = self._head_rows - (self._chain[-1].end - segment.end)
        start = max(end - (segment.end - segment.start), 0)
        if end <= 0 or not self._head_complete:
            return
        fits = _layout(header, "head.rows.") == self._head_layout and all(
            header.tensors[name].shape[1] == end - start for name in self._head_layout
        )
        if not fits or _head_count(file, header) != end:
            self._head_complete = False
            return
        for name in self._head_layout:
            rows = self._buffer.rows(name, start, end)
            snapshot_file.read_tensor(file, header.tensors[name], rows)

    def _read_state(self, segment: Segment) -> Tensors:
        with self._opened(segment, STATE) as (file, header):
            return {
                name: (entry.dtype, snapshot_file.read_tensor(file, entry))
                for name, entry in header.tensors.items()
            }

    @contextmanager
    def _opened(self, segment: Segment, kind: str) -> Iterator[tuple[FileIO, Header]]:
        """A file of the chain, whose metadata belong to its name."""
        path = segment.path(kind)
        with _attributed_to(path), snapshot_file.opened(path) as (file, header):
            expected = metadata(self._model, segment, kind)
            if header.metadata.get("model") != self._model:
                raise UnusableError("is of another model")
            if any(header.metadata.get(name) != value for name, value in expected.items()):
                raise UnusableError("has another's name")
            yield file, header


def _layout(header: Header, prefix: str) -> KVLayout:
    """The layout of the tensors whose name begins in this way."""
    layout = {}
    for name, entry in header.tensors.items():
        if name.startswith(prefix):
            heads, _, width = entry.shape
            layout[name] = (entry.dtype, heads, width)
    return layout


def _head_count(file: FileIO, header: Header) -> int:
    """How many rows the MTP head had at the end of a segment; 0 if none are stored."""
    entry = header.tensors.get(HEAD_COUNT)
    return 0 if entry is None else int(snapshot_file.read_tensor(file, entry)[0])


@contextmanager
def _attributed_to(path: Path) -> Iterator[None]:
    """Raise errors about a file's content as `UnusableFileError` of this path."""
    try:
        yield
    except UnusableError as error:
        raise UnusableFileError(path, str(error)) from None
    except (KeyError, ValueError):
        raise UnusableFileError(path, "is incomplete") from None
