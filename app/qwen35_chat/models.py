"""The models on this machine and those to download, and whether they fit into memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import kv_bytes_per_token, state_bytes

MemoryFit = Literal["fits", "tight", "too large"]
# Shares of the machine's memory. Above the first, other programs get slow; above the second, a Mac
# does not give the memory to its GPU.
COMFORTABLE_SHARE, GPU_SHARE = 0.6, 0.75
OVERHEAD_BYTES = 500_000_000  # everything but weights and cache


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model in the list of models.

    Attributes:
        name: as `--model` takes it.
        weight_bytes: in memory.
        kv_bytes_per_token: of the KV cache.
        state_bytes: recurrent and convolution state, for any number of tokens.
        folder: where it is on this machine; None if it has to be downloaded.
        title: for people; "" for the name.
        max_context: the most tokens that it takes; 0 if unknown.
    """

    name: str
    weight_bytes: int
    kv_bytes_per_token: int
    state_bytes: int
    folder: Path | None = None
    title: str = ""
    max_context: int = 0

    def memory_needed(self, context: int) -> int:
        """Bytes of memory with a context of `context` tokens, or of `max_context` if shorter."""
        tokens = min(context, self.max_context) if self.max_context else context
        cache = self.kv_bytes_per_token * tokens + self.state_bytes
        return self.weight_bytes + cache + OVERHEAD_BYTES

    def memory_fit(self, context: int, memory: int) -> MemoryFit:
        """Whether it fits into `memory` bytes, shared with the rest of the system."""
        share = self.memory_needed(context) / max(memory, 1)
        if share <= COMFORTABLE_SHARE:
            return "fits"
        return "tight" if share <= GPU_SHARE else "too large"


# Repository name after "mlx-community/Qwen3.5-", size, GB of weights at 4 bits in groups of 64, and
# bytes of KV cache per token, recurrent state and convolution state.
_PUBLISHED: tuple[tuple[str, str, float, int, int, int], ...] = (
    ("0.8B-MLX-4bit", "0.8B", 0.42, 12_288, 18_874_368, 663_552),
    ("4B-MLX-4bit", "4B", 2.37, 32_768, 50_331_648, 1_179_648),
    ("9B-MLX-4bit", "9B", 5.04, 32_768, 50_331_648, 1_179_648),
    ("27B-4bit", "27B", 15.13, 65_536, 150_994_944, 2_949_120),
    ("35B-A3B-4bit", "35B-A3B", 19.51, 20_480, 62_914_560, 1_474_560),
    ("122B-A10B-4bit", "122B-A10B", 68.71, 24_576, 150_994_944, 2_654_208),
)  # fmt: skip
PUBLISHED = tuple(
    ModelEntry(
        f"mlx-community/Qwen3.5-{name}",
        round(gigabytes * 1e9),
        kv_bytes,
        recurrent + convolution,
        title=f"Qwen3.5 {size}",
        max_context=262_144,
    )
    for name, size, gigabytes, kv_bytes, recurrent, convolution in _PUBLISHED
)


def machine_memory() -> int:
    """Bytes of memory of this machine; 0 if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def local_folder(name: str) -> Path | None:
    """The folder of a model on this machine, found without the network; None if there is none."""
    if name == demo.NAME:
        return demo.folder()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    return _cached_snapshots().get(name) if name.count("/") == 1 else None


def local_models(folders: tuple[str, ...] = ()) -> list[ModelEntry]:
    """The Qwen3.5 checkpoints on this machine.

    The first call imports huggingface_hub, which takes about 0.1 s.

    Args:
        folders: checkpoints, or folders with checkpoints, besides the download cache.
    """
    candidates = [(demo.NAME, demo.folder()), *sorted(_cached_snapshots().items())]
    for folder in folders:
        path = Path(folder).expanduser()
        candidates += [(str(entry), entry) for entry in [path, *_subfolders(path)]]
    entries = [read_checkpoint(name, folder) for name, folder in candidates]
    return [entry for entry in entries if entry is not None]


def read_checkpoint(name: str, folder: Path) -> ModelEntry | None:
    """The entry of a checkpoint folder; None if it has no complete Qwen3.5 checkpoint."""
    if not _is_complete(folder):
        return None
    try:
        config = read_json_object(folder / "config.json")
        shape = ModelConfig.from_dict(config)
        dtype = config.get("text_config", config).get("dtype") or config.get("dtype")
        itemsize = 4 if dtype == "float32" else 2
        return ModelEntry(
            name,
            sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            kv_bytes_per_token(shape, itemsize),
            state_bytes(shape, itemsize),
            folder,
            max_context=shape.max_position_embeddings,
        )
    except (Qwen35Error, TypeError, ValueError, OverflowError, OSError):
        return None  # a config.json of another model, or a damaged one


def _subfolders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return


def _cached_snapshots() -> dict[str, Path]:
    """For each repository in the download cache, the newest complete snapshot."""
    from huggingface_hub import constants, scan_cache_dir  # takes about 0.1 s
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return {}
    found: dict[str, Path] = {}
    for repository in repositories:
        if repository.repo_type != "model":
            continue
        snapshots = (revision.snapshot_path for revision in repository.revisions)
        complete = [(_modified(path), path) for path in snapshots if _is_complete(path)]
        if complete:
            # Not `repo_id`, in which every "--" has become "/".
            name = repository.repo_path.name.removeprefix("models--").replace("--", "/", 1)
            found[name] = max(complete)[1]
    return found


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed since
        return 0.0


def _is_complete(folder: Path) -> bool:
    """Whether a folder has a config and all weights; an interrupted download does not."""
    try:
        weights = {file.name for file in folder.glob("*.safetensors")}
        index = read_json_object(folder / "model.safetensors.index.json")
        expected = set(index.get("weight_map", {}).values())
        return (folder / "config.json").exists() and bool(weights) and expected <= weights
    except (Qwen35Error, AttributeError, TypeError, OSError):
        return False
