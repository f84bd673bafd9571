"""Checkpoints on the Hub that are read shard by shard, in the disk space of a few shards. No MLX.

The headers of all shards are fetched by themselves, and give the names and shapes of all tensors.
A small tensor is fetched by itself too. Any other brings its whole shard, which stays until it is
released. Files that an MTP head has for itself are fetched whole at the start.
"""

import glob
import hashlib
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.hub import ALLOW_PATTERNS, IGNORE_PATTERNS
from qwen35_mlx.checkpoint.hub_client import start_client, watched
from qwen35_mlx.checkpoint.hub_errors import is_full_disk, is_network_failure
from qwen35_mlx.checkpoint.hub_name import HubName
from qwen35_mlx.checkpoint.remote_listing import SHARD, list_repository
from qwen35_mlx.checkpoint.safetensors_header import MAX_HEADER_BYTES
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import open_regular, read_exactly
from qwen35_mlx.progress import Progress
from qwen35_mlx.user_paths import exists, user_path

# Tensors of up to this size are fetched without their shard.
SMALL_BYTES = 1 << 20
_SHARDS = "shards"  # the folder of whole shards
# Large files of the tokenizer.
_VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_HEADER_GUESS = 256 << 10
_PIECE = 1 << 20  # of a header
_PARALLEL = 8  # requests for headers
_ATTEMPTS = 5
_PAUSE = 0.5  # seconds before the second attempt; doubles
_HASH_BYTES = 4 << 20


class RemoteShard:
    """A safetensors file of a repository.

    Attributes:
        name: of the file.
        size: in bytes.
        sha256: as the Hub has it, None if it has none.
    """

    def __init__(self, shards: "RemoteShards", name: str, size: int, sha256: str | None):
        self.name = name
        self.size = size
        self._shards = shards
        self.sha256 = sha256
        self._file: FileIO | None = None
        self._small: tuple[range, bytes] = range(0), b""

    @property
    def is_held(self) -> bool:
        """Whether the whole file is on this disk."""
        return self._path.is_file()

    @property
    def _path(self) -> Path:
        return self._shards.folder / _SHARDS / self.name

    def read(self, out: memoryview, offset: int, tensor: range) -> None:
        """See `safetensors.RemoteFile.read`."""
        if not out:
            return
        if self._file is None and len(tensor) <= SMALL_BYTES:
            if self._small[0] != tensor:
                self._small = tensor, self.fetch_range(tensor.start, tensor.stop)
            start = offset - tensor.start
            out[:] = self._small[1][start : start + len(out)]
            return
        if self._file is None:
            self._file = self._download()
        read_exactly(self._file, out, offset)

    def release(self) -> None:
        """Remove the whole file from this disk."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.is_held:
            self._path.unlink()

    def write_header(self) -> None:
        """Write the header to the folder, in a file of its own that has the shard's name."""
        data = self.fetch_range(0, min(self.size, _HEADER_GUESS))
        length = int.from_bytes(data[:8], "little")
        # A header that cannot be one is cut, and refused when it is read.
        end = min(8 + length, self.size) if length <= MAX_HEADER_BYTES else len(data)
        path = self._shards.folder / self.name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.write(data[:end])
            for start in range(len(data), end, _PIECE):
                file.write(self.fetch_range(start, min(start + _PIECE, end)))

    def fetch_range(self, begin: int, end: int) -> bytes:
        """The bytes [begin, end), fetched from the Hub.

        Raises:
            Qwen35Error: the Hub cannot be reached, or sends something else.
        """
        return watched(
            lambda _: self._fetch_range(begin, end),
            f"{self._shards.repository}/{self.name}",
            self._shards.commit,
            progress=lambda *_: None,
        )

    def _fetch_range(self, begin: int, end: int) -> bytes:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE * 2 ** (attempt - 1))
            try:
                return self._request(begin, end)
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or not is_network_failure(error):
                    raise
        raise AssertionError

    def _request(self, begin: int, end: int) -> bytes:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self._shards.repository, self.name, revision=self._shards.commit)
        headers = build_hf_headers() | {
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",  # a range of the file, not of its compressed form
        }
        data = bytearray()
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            whole = response.status_code != 206 and end - begin != self.size
            for piece in response.iter_bytes():
                data += piece
                if whole or len(data) > end - begin:
                    break
        if whole or len(data) != end - begin:
            sent = "the whole file" if whole else f"{len(data)} bytes"
            raise Qwen35Error(
                f"the Hub sends {sent} where bytes {begin} to {end} of {self.name} are requested: "
                f"leave out {self._shards.option}"
            )
        return bytes(data)

    def _download(self) -> FileIO:
        """The whole file, which is downloaded unless it is here, and checked."""
        shards = self._shards
        if not self.is_held:
            shards.fetch(self.name)
        path = self._path
        if not self.is_held:  # huggingface_hub is content with what is there
            raise Qwen35Error(
                f"{shards.repository}/{self.name} cannot be fetched: check the network and try "
                "again with --resume"
            )
        if path.stat().st_size != self.size or not self._is_intact(path):
            path.unlink(missing_ok=True)
            raise Qwen35Error(
                f"{shards.repository}/{self.name} arrived damaged: try again with --resume"
            )
        return open_regular(path)

    def _is_intact(self, path: Path) -> bool:
        """Whether a file has the header that was read before, and the Hub's checksum."""
        header = (shards := self._shards).folder / self.name
        with path.open("rb") as file:
            if file.read(header.stat().st_size) != header.read_bytes():
                return False
            if self.sha256 is None:
                return True
            file.seek(0)
            digest = hashlib.sha256()
            while data := file.read(_HASH_BYTES):
                digest.update(data)
                shards.report(f"checking {self.name}")
        return digest.hexdigest() == self.sha256


class RemoteShards:
    """The weights of a repository.

    Attributes:
        repository: "org/repo".
        commit: that is read.
        folder: with config.json, the tokenizer, the headers, and the shards that are held.
        option: that led here, for error lines.
        files: the shards, by name.
        names: of all files in the repository.
        report: called with a line on what is being done, during a download.
    """

    def __init__(self, repository: str, commit: str, folder: Path, option: str):
        self.repository = repository
        self.commit = commit
        self.folder = folder
        self.option = option
        self.files: Mapping[str, RemoteShard] = {}
        self.names: Collection[str] = ()
        self.report: Callable[[str], None] = lambda _: None

    @property
    def headers(self) -> dict[Path, RemoteShard]:
        """The shards, by the files of their headers."""
        return {self.folder / name: shard for name, shard in self.files.items()}

    @property
    def nbytes(self) -> int:
        """Of all shards."""
        return sum(shard.size for shard in self.files.values())

    def release(self, kept: Collection[str] = ()) -> None:
        """Remove all shards from this disk but those of names in `kept`."""
        for name, shard in self.files.items():
            if name not in kept:
                shard.release()

    def fetch(self, name: str) -> None:
        """Download a shard.

        Raises:
            Qwen35Error: it cannot be downloaded.
        """

        def progress(done: int, total: int, _: str) -> None:
            self.report(f"fetching {name}, {done / 1e9:.2f} of {total / 1e9:.2f} GB")

        self._snapshot(self.folder / _SHARDS, [glob.escape(name)], (), progress)

    def fetch_other_files(self, heads: Collection[str], ignored: Collection[str]) -> None:
        """Download config.json, the index, the tokenizer, the template and files of MTP heads.

        Args:
            heads: names of the latter.
            ignored: names of files that are not needed.
        """
        patterns = [pattern for pattern in ALLOW_PATTERNS if not SHARD.fullmatch(pattern)]
        patterns += map(glob.escape, heads)
        self._snapshot(self.folder, patterns, ignored, lambda *_: None)

    def _snapshot(
        self, folder: Path, patterns: list[str], ignored: Collection[str], progress: Progress
    ) -> None:
        from huggingface_hub import snapshot_download

        def download(bars: type[Any]) -> None:
            try:
                snapshot_download(
                    self.repository,
                    revision=self.commit,
                    local_dir=folder,
                    allow_patterns=patterns,
                    ignore_patterns=[*IGNORE_PATTERNS, *ignored],
                    tqdm_class=bars,
                )
            except Exception as error:
                if is_full_disk(error):
                    raise Qwen35Error(
                        f"no space left for {patterns[0]} of {self.repository}: free some, or "
                        "choose another --mlx-path, and try again with --resume"
                    ) from error
                raise

        watched(download, self.repository, self.commit, progress)

    def fetch_headers(self) -> None:
        """Fetch the headers of all shards into files of their names."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(RemoteShard.write_header, self.files.values()))


def open_remote(
    name: str,
    revision: str | None,
    folder: Path,
    *,
    headers_only: bool = False,
    option: str = "--stream",
) -> RemoteShards:
    """Fetch all of a repository but its weights.

    Args:
        name: "org/repo".
        revision: branch, tag or commit.
        folder: for what is fetched, in a folder of the commit. Shards that are in it are used.
        headers_only: whether files of an MTP head are shards too, and the tokenizer is left out.
        option: that led here, for error lines.

    Raises:
        Qwen35Error: it is not a repository with safetensors files, or the Hub fails.
    """
    hub_name = HubName.parse(name)
    if hub_name is None or exists(user_path(name)):
        raise Qwen35Error(f"{shown(name)} is no repository of the Hub: leave out {option}")
    if hub_name.quantization or hub_name.file:
        raise _gguf_error(name, option)
    start_client()
    listing = watched(
        lambda _: list_repository(hub_name.repository, revision), name, revision, lambda *_: None
    )
    files = {**listing.shards, **(listing.heads if headers_only else {})}
    if not files:
        if any(file.lower().endswith(".gguf") for file in listing.names):
            raise _gguf_error(name, option)
        raise Qwen35Error(f"{name} has no safetensors files: choose another repository")
    shards = RemoteShards(name, listing.commit, folder / listing.commit, option)
    shards.names = listing.names
    shards.files = {
        file: RemoteShard(shards, file, *about) for file, about in sorted(files.items())
    }
    for other in folder.iterdir() if folder.is_dir() else ():
        if other != shards.folder:
            shutil.rmtree(other)  # of another commit
    shards.folder.mkdir(parents=True, exist_ok=True)
    # Of a download that was killed.
    for partial in (shards.folder / _SHARDS).rglob("*.incomplete"):
        partial.unlink()
    heads = [] if headers_only else list(listing.heads)
    shards.fetch_other_files(heads, _VOCABULARY if headers_only else ())
    shards.fetch_headers()
    return shards


def _gguf_error(name: str, option: str) -> Qwen35Error:
    return Qwen35Error(
        f"{shown(name)} has GGUF files, which cannot be read in parts: leave out {option}"
    )
