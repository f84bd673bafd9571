"""A source on the Hub that a conversion reads shard by shard."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_mlx.checkpoint.folder import weight_files
from qwen35_mlx.checkpoint.names import canonical_name
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.remote import RemoteShards, open_remote
from qwen35_mlx.checkpoint.safetensors import RemoteFile
from qwen35_mlx.conversion.new_folder import leftovers, partial_path, source_path
from qwen35_mlx.conversion.record import Source
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import exists

_LAYER = re.compile(r"model\.layers\.[0-9]+|mtp")


class StreamedSource:
    """The shards of a source, each on this disk while the part of the network in work needs it.

    A part is a layer, the MTP head, or a module beside them.

    Attributes:
        checkpoint: the source. Reading a tensor of it downloads the shard that holds it.
        shards: all shards.
    """

    def __init__(
        self,
        shards: RemoteShards,
        head: Path | None,
        of_head: Mapping[Path, RemoteFile] | None = None,
    ):
        """
        Args:
            head: see `open_checkpoint`.
            of_head: the files of `head` of which only the header is here.
        """
        self.shards = shards
        remote = {**shards.headers, **(of_head or {})}
        self.checkpoint = open_checkpoint(shards.folder, head, remote)
        self._needed: dict[str, set[str]] = {}  # shards by part
        for stored_name, tensor in weight_files(shards.folder, shards.headers).items():
            name = canonical_name(stored_name)
            if name and tensor.remote is not None:
                self._needed.setdefault(_part(name), set()).add(tensor.path.name)

    @property
    def source(self) -> Source:
        """What the weights are."""
        hashes = {name: shard.sha256 for name, shard in self.shards.files.items()}
        return Source(self.shards.repository, self.shards.commit, hashes)

    def held_by_part(self, tensors: Sequence[str]) -> dict[str, set[str]]:
        """The shards that are here while each part is in work: those that it and later ones need.

        Args:
            tensors: names, in the order of reading.
        """
        parts = list(dict.fromkeys(map(_part, tensors)))
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for number, part in enumerate(parts):
            for shard in self._needed.get(part, ()):
                first.setdefault(shard, number)
                last[shard] = number
        return {
            part: {shard for shard in first if first[shard] <= number <= last[shard]}
            for number, part in enumerate(parts)
        }

    def nbytes(self, tensors: Sequence[str]) -> int:
        """The most bytes of shards that are here at once. Arguments: `held_by_part`."""
        files = self.shards.files
        held = self.held_by_part(tensors).values()
        return max((sum(files[name].size for name in names) for names in held), default=0)

    def held_bytes(self) -> int:
        """Bytes of the shards that are here now."""
        return sum(shard.size for shard in self.shards.files.values() if shard.is_held)

    def begin(self, tensor: str, held: dict[str, set[str]]) -> None:
        """Release the shards that neither this tensor nor a later one needs.

        Args:
            held: from `held_by_part`.
        """
        self.shards.release(kept=held[_part(tensor)])


@contextmanager
def streamed(
    name: str, revision: str | None, head: Path | None, out: Path, resume: bool
) -> Iterator[StreamedSource]:
    """The source of a conversion to `out`. Its shards are removed at the end.

    Args:
        name: "org/repo".
        head: see `open_checkpoint`.
        resume: whether to use the shards that the conversion which is continued has left.

    Raises:
        Qwen35Error: it cannot be streamed, or fetched.
    """
    parents = [parent for parent in out.parents if not exists(parent)]
    folder = source_path(out)
    try:
        try:
            if resume:
                for left in leftovers(out, "source")[:1]:
                    left.rename(folder)
            elif folder.exists():  # of a process that had this number
                shutil.rmtree(folder)
            shards = open_remote(name, revision, folder)
        except OSError as error:
            raise Qwen35Error(f"cannot write {folder}: {error.strerror or error}") from error
        yield StreamedSource(shards, head)
    except BaseException:
        # Shards are kept with the unfinished result, for another process.
        if not partial_path(out).exists():
            _remove(folder, parents)
        raise
    _remove(folder, [])


def _remove(folder: Path, parents: Sequence[Path]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for parent in parents:
        with suppress(OSError):
            parent.rmdir()


def _part(name: str) -> str:
    """The part of the network that a tensor, by any of its names, belongs to."""
    name = canonical_name(name) or name
    layer = _LAYER.match(name)
    return layer[0] if layer else name.rpartition(".")[0]
