"""The models on this machine and those to download, and whether they fit into memory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.gguf_names import is_gguf_file
from qwen35_mlx.checkpoint.gguf_summary import gguf_summary
from qwen35_mlx.checkpoint.index import CONFIG, weight_bytes
from qwen35_mlx.checkpoint.stored import MAX_FOLDERS, StoredModel, short_error, stored_models
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object
from qwen35_mlx.model.config import MODEL_TYPES, ModelConfig
from qwen35_mlx.model.memory import kv_bytes_per_token, state_bytes
from qwen35_mlx.session.events import ProcessesJoined
from qwen35_mlx.user_paths import exists, user_path

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
        path: the folder or GGUF file on this machine; None if it has to be downloaded.
        title: for people; "" for the name.
        max_context: the most tokens that it takes; 0 if unknown.
        download_bytes: of its files, with weights that are not read; 0 for `weight_bytes`.
        kl: mean KL divergence of its predictions from those of the unquantised model, in nats, as
            others published it; None if unknown. Figures of different texts do not compare.
        program: that keeps it, if that is another one.
        kv_heads: key/value heads, of which several processes may have copies.
    """

    name: str
    weight_bytes: int
    kv_bytes_per_token: int
    state_bytes: int
    path: Path | None = None
    title: str = ""
    max_context: int = 0
    download_bytes: int = 0
    kl: float | None = None
    program: str = ""
    kv_heads: int = 1

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.download_bytes or self.weight_bytes

    def memory_needed(self, context: int, processes: ProcessesJoined | None = None) -> int:
        """Bytes of memory with a context of `context` tokens, or of `max_context` if shorter.

        Args:
            processes: that run it together: what one of them needs. None for this one alone.
        """
        tokens = min(context, self.max_context) if self.max_context else context
        count = 1 if processes is None else processes.count
        # A process has whole heads of every layer, or whole layers.
        of_heads = processes is not None and not processes.pipeline
        parts = min(count, self.kv_heads) if of_heads else count
        kv = self.kv_bytes_per_token * tokens // parts
        return (self.weight_bytes + self.state_bytes) // count + kv + OVERHEAD_BYTES

    def memory_fit(
        self, context: int, memory: int, processes: ProcessesJoined | None = None
    ) -> MemoryFit:
        """Whether it fits into `memory` bytes of a machine, shared with the rest of the system.

        Args:
            processes: as for `memory_needed`.
        """
        share = self.memory_needed(context, processes) / max(memory, 1)
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


@dataclass(frozen=True, slots=True)
class _Shape:
    """Bytes of keys and values per token, and of the state, in BF16; key/value heads."""

    kv_bytes: int
    state_bytes: int
    kv_heads: int


_SMALL = _Shape(12_288, 19_537_920, 2)
_MIDDLE = _Shape(32_768, 51_511_296, 4)
_27B = _Shape(65_536, 153_944_064, 4)
# The repository, its title, its shape, GB of the text network's weights and of all files, and its
# KL divergence. All but the ternary ones have 4 bits in groups of 64. Sizes are computed from
# shapes, with a vision tower in BF16, except those of the ternary models, which are published.
_PUBLISHED: tuple[tuple[str, str, _Shape, float, float, float | None], ...] = (
    ("mlx-community/Qwen3.5-0.8B-MLX-4bit", "Qwen3.5 0.8B", _SMALL, 0.42, 0.64, None),
    ("mlx-community/Qwen3.5-2B-MLX-4bit", "Qwen3.5 2B", _SMALL, 1.06, 1.74, None),
    ("mlx-community/Qwen3.5-4B-MLX-4bit", "Qwen3.5 4B", _MIDDLE, 2.37, 3.05, None),
    ("mlx-community/Qwen3.5-9B-MLX-4bit", "Qwen3.5 9B", _MIDDLE, 5.04, 5.97, None),
    ("prism-ml/Ternary-Bonsai-27B-mlx-2bit", "Ternary Bonsai 27B", _27B, 7.58, 8.52, None),
    ("prism-ml/Ternary-Bonsai-2-27B-mlx-2bit", "Ternary Bonsai 2 27B", _27B, 7.66, 8.6, None),
    ("mlx-community/Qwen3.8-27B-4bit", "Qwen3.8 27B", _27B, 15.13, 16.08, None),
    ("mlx-community/Qwen3.6-27B-4bit", "Qwen3.6 27B", _27B, 15.13, 16.08, 0.057),
    ("mlx-community/Qwen3.6-35B-A3B-4bit", "Qwen3.6 35B-A3B", _Shape(20_480, 64_389_120, 2),
     19.51, 20.42, None),
    ("mlx-community/Qwen3.5-122B-A10B-4bit", "Qwen3.5 122B-A10B", _Shape(24_576, 153_649_152, 2),
     68.71, 69.63, None),
)  # fmt: skip
PUBLISHED = tuple(
    ModelEntry(
        name,
        round(weights * 1e9),
        shape.kv_bytes,
        shape.state_bytes,
        title=title,
        max_context=262_144,
        download_bytes=round(files * 1e9),
        kl=kl,
        kv_heads=shape.kv_heads,
    )
    for name, title, shape, weights, files, kl in _PUBLISHED
)
_KL = {entry.name: entry.kl for entry in PUBLISHED}


def machine_memory() -> int:
    """Bytes of memory of this machine; 0 if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def memory_of(processes: ProcessesJoined | None, memory: int | None = None) -> tuple[int, str]:
    """Bytes of memory for a model, or for a process's part of it, and what has them, for people.

    Args:
        processes: that run models together; None for this machine alone.
        memory: of this machine; None for what it has.
    """
    if processes is None:
        memory = machine_memory() if memory is None else memory
        return memory, f"{memory / 2**30:.0f} GB of memory"
    memory = processes.memory
    return memory, f"{processes.count} processes with {memory / 2**30:.0f} GB of memory each"


def local_models(folders: tuple[str, ...] = ()) -> LocalModels:
    """The Qwen3.5 models on this machine. Never raises: what is damaged is left out.

    The first call imports huggingface_hub, which takes about 0.1 s.

    Args:
        folders: checkpoints, or folders with checkpoints, besides those of
            `qwen35_mlx.checkpoint.places`.
    """
    stored = stored_models(folders)
    found = [read_entry(model) for model in stored.models]
    unsearched = [
        LeftOut(str(folder), f"only {MAX_FOLDERS:,} folders in it were searched: name one of them")
        for folder in stored.unsearched
    ]
    return LocalModels(
        tuple(entry for entry in found if isinstance(entry, ModelEntry)),
        (*(entry for entry in found if isinstance(entry, LeftOut)), *unsearched),
    )


def installed(model: str, folders: tuple[str, ...] = ()) -> bool:
    """Whether a model can be loaded without a download: by its name, its folder or its file.

    Args:
        folders: as for `local_models`.
    """
    if model == demo.NAME or any(entry.name == model for entry in local_models(folders).usable):
        return True
    try:
        return exists(user_path(model))
    except Qwen35Error:
        return False


def read_entry(model: StoredModel) -> ModelEntry | LeftOut | None:
    """The entry of a stored model; None if it is another model."""
    path = model.path
    try:
        config, size = _summary(path)
        if config.get("model_type") not in MODEL_TYPES:
            return None
        shape = ModelConfig.from_dict(config)
        if model.problem:
            return LeftOut(model.name, model.problem)
        dtype = config.get("text_config", config).get("dtype") or config.get("dtype")
        itemsize = 4 if dtype == "float32" else 2
        return ModelEntry(
            model.name,
            size if size is not None else weight_bytes(path),
            kv_bytes_per_token(shape, itemsize),
            state_bytes(shape, itemsize),
            path,
            max_context=shape.max_position_embeddings,
            kl=_KL.get(model.name),
            program=model.program,
            kv_heads=shape.num_key_value_heads,
        )
    except Qwen35Error as error:
        if is_gguf_file(path):
            reason = short_error(error, path.parent).replace(CONFIG, "its header")
            return LeftOut(model.name, model.problem or reason)
        return LeftOut(model.name, short_error(error, path))


def _summary(path: Path) -> tuple[dict[str, Any], int | None]:
    """config.json, and the bytes of the weights if they are read already."""
    return gguf_summary(path) if is_gguf_file(path) else (read_json_object(path / CONFIG), None)
