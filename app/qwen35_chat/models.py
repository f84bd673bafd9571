"""The models on this machine and those to download, and whether they fit into memory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.index import CONFIG, read_index, weight_bytes
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object, read_text
from qwen35_mlx.model.config import MODEL_TYPES, ModelConfig
from qwen35_mlx.model.memory import kv_bytes_per_token, state_bytes
from qwen35_mlx.untrusted_json import shown

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


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A checkpoint on this machine that cannot be used, and why in one line."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class LocalModels:
    """The Qwen3.5 checkpoints on this machine: those to use, and those that are damaged."""

    usable: tuple[ModelEntry, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


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
    if path := _user_folder(name):
        return path
    snapshot = _cached_snapshots().get(name)
    return snapshot if snapshot and not _problem(snapshot) else None


def local_models(folders: tuple[str, ...] = ()) -> LocalModels:
    """The Qwen3.5 checkpoints on this machine. Never raises: what is damaged is left out.

    The first call imports huggingface_hub, which takes about 0.1 s.

    Args:
        folders: checkpoints, or folders with checkpoints, besides the download cache.
    """
    candidates = [(demo.NAME, demo.folder()), *sorted(_cached_snapshots().items())]
    for folder in folders:
        if path := _user_folder(folder):
            candidates += [(str(entry), entry) for entry in [path, *_subfolders(path)]]
    found = [read_checkpoint(name, folder) for name, folder in candidates]
    return LocalModels(
        tuple(entry for entry in found if isinstance(entry, ModelEntry)),
        tuple(entry for entry in found if isinstance(entry, LeftOut)),
    )


def read_checkpoint(name: str, folder: Path) -> ModelEntry | LeftOut | None:
    """The entry of a checkpoint folder; None if it is not one, or one of another model."""
    try:
        config = read_json_object(folder / CONFIG)
        if config.get("model_type") not in MODEL_TYPES:
            return None
        shape = ModelConfig.from_dict(config)
        if problem := _problem(folder):
            return LeftOut(name, problem)
        dtype = config.get("text_config", config).get("dtype") or config.get("dtype")
        itemsize = 4 if dtype == "float32" else 2
        return ModelEntry(
            name,
            weight_bytes(folder),
            kv_bytes_per_token(shape, itemsize),
            state_bytes(shape, itemsize),
            folder,
            max_context=shape.max_position_embeddings,
        )
    except Qwen35Error as error:
        return LeftOut(name, _short(error, folder))


def _user_folder(name: str) -> Path | None:
    """The folder that a user means; None if there is none of that name."""
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, "\\0" in it, "~" of nobody
        return None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in _entries(folder) if _is_folder(entry))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # in a folder that may not be searched, or an odd name
        return False


def _cached_snapshots() -> dict[str, Path]:
    """For each repository in the download cache, the newest complete snapshot, else the newest.

    huggingface_hub can list them too, but one folder that it cannot read ends its list.
    """
    from huggingface_hub import constants  # takes about 0.1 s

    found: dict[str, Path] = {}
    cache = _user_folder(constants.HF_HUB_CACHE)
    for repository in _subfolders(cache) if cache else ():
        prefix, _, name = repository.name.partition("--")
        if prefix == "models" and (snapshots := _subfolders(repository / "snapshots")):
            found[name.replace("--", "/", 1)] = max(
                snapshots, key=lambda path: (not _problem(path), _modified(path), path)
            )
    return found


def _problem(folder: Path) -> str:
    """Why a folder has no complete checkpoint, such as an interrupted download; "" if it has."""
    try:
        read_index(folder)
        weight_bytes(folder)
        if not read_json_object(folder / CONFIG):
            return f"it has no {CONFIG}: download it again"
        return _missing_commit(folder)
    except Qwen35Error as error:
        return _short(error, folder)


def _short(error: Qwen35Error, folder: Path) -> str:
    """An error's message without the folder, which the list names already."""
    return str(error).replace(f"{folder}/", "")


def _missing_commit(folder: Path) -> str:
    """Why the Hub's client would not use this snapshot; "" if it would, or if it is none."""
    main = folder.parent.parent / "refs" / "main"
    if folder.parent.name != "snapshots" or not os.path.lexists(main):
        return ""
    commit = read_text(main).strip()
    if _is_folder(folder.parent / commit):
        return ""
    return f"version {shown(commit)} is not downloaded: download it again"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed since
        return 0.0
